-- Put the document of a dead letter back onto its stream and delete the letter. Adding goes first: a Redis that is full
-- refuses it, and the letter stays.
-- KEYS: all streams, dead letters. ARGV: the most unfinished documents, number of the stream, id of the letter, then the
-- document's fields and values.
-- Returns the id of the new entry; false if the letter is gone; the number of unfinished documents if there is no room.
local dead = KEYS[#KEYS]
if #redis.call('XRANGE', dead, ARGV[3], ARGV[3]) == 0 then
  return false
end
local total = 0
for i = 1, #KEYS - 1 do
  total = total + redis.call('XLEN', KEYS[i])
end
if total >= tonumber(ARGV[1]) then
  return total
end
local id = redis.call('XADD', KEYS[tonumber(ARGV[2])], '*', unpack(ARGV, 4))
redis.call('XDEL', dead, ARGV[3])
return id
