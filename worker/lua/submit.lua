-- Add documents to one stream, all of them or none: looking at the limit and adding are one step, so that it holds
-- exactly however many producers there are.
-- KEYS: all streams. ARGV: the most unfinished documents, number of the stream, number of documents, then for each
-- document the number of its fields and values, and those.
-- Returns the entry ids, or the number of unfinished documents if there is no room.
local total = 0
for _, stream in ipairs(KEYS) do
  total = total + redis.call('XLEN', stream)
end
if total + tonumber(ARGV[3]) > tonumber(ARGV[1]) then
  return total
end
local ids = {}
local i = 4
while i <= #ARGV do
  local size = tonumber(ARGV[i])
  ids[#ids + 1] = redis.call('XADD', KEYS[tonumber(ARGV[2])], '*', unpack(ARGV, i + 1, i + size))
  i = i + size + 1
end
return ids
