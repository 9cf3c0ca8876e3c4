-- Add documents to one stream, as many of the first as there is room for: looking at the limit and adding are one step,
-- so that it holds exactly however many producers there are.
-- KEYS: all streams. ARGV: the most unfinished documents, number of the stream, then for each document the number of its
-- fields and values, and those.
-- Returns the number of unfinished documents there were, then the ids of the new entries.
local total = 0
for _, stream in ipairs(KEYS) do
  total = total + redis.call('XLEN', stream)
end
local answer = {total}
local i = 3
while i <= #ARGV and total < tonumber(ARGV[1]) do
  local size = tonumber(ARGV[i])
  answer[#answer + 1] = redis.call('XADD', KEYS[tonumber(ARGV[2])], '*', unpack(ARGV, i + 1, i + size))
  total = total + 1
  i = i + size + 1
end
return answer
