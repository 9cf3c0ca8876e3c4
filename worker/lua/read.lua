-- Take up to ARGV[3] entries that nobody has, from the first stream what it holds, then from the next.
-- KEYS: streams in the order of this read. ARGV: group, consumer, count.
-- Returns {stream, {{id, {field, value, ...}}, ...}} for each stream that had entries.
local left = tonumber(ARGV[3])
local answer = {}
for _, stream in ipairs(KEYS) do
  if left > 0 then
    local read = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', left, 'STREAMS', stream, '>')
    if read then
      answer[#answer + 1] = read[1]
      left = left - #read[1][2]
    end
  end
end
return answer
