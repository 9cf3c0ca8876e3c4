-- Add documents to one stream, as many of the first as there is room for: looking at the limit and adding are one step,
-- so that it holds exactly however many producers there are. A call notes how many of its documents were accepted, in the
-- same step too: whoever submits them again adds none twice.
-- KEYS: all streams, and the note of the call if it is one's.
-- ARGV: the most unfinished documents, number of the stream, seconds that a note lives or 0 for no call, how many documents
-- of the call come before these, then for each document the number of its fields and values, and those.
-- Returns the number of unfinished documents there were, how many of these were accepted by now, then the ids of the new
-- entries.
local room, lifetime, before = tonumber(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[4])
local note = lifetime > 0 and table.remove(KEYS)
local noted = note and redis.call('GET', note)
local accepted = (tonumber(noted or 0) or 0) - before
local total = 0
for _, stream in ipairs(KEYS) do
  total = total + redis.call('XLEN', stream)
end
local answer = {total, 0}
local i, number = 5, 0
while i <= #ARGV do
  local size = tonumber(ARGV[i])
  if number >= accepted then
    if total >= room then
      break
    end
    answer[#answer + 1] = redis.call('XADD', KEYS[tonumber(ARGV[2])], '*', unpack(ARGV, i + 1, i + size))
    total = total + 1
  end
  number = number + 1
  i = i + size + 1
end
if noted and #answer > 2 then
  -- It goes when it would have gone: results of the first documents would not outlive a later end.
  redis.call('SET', note, before + number, 'KEEPTTL')
elseif note and #answer > 2 then
  redis.call('SET', note, before + number, 'EX', lifetime)
end
answer[2] = number
return answer
