-- Take up to ARGV[3] entries that nobody has, from the first stream what it holds, then from the next, until they have
-- ARGV[4] bytes. XREADGROUP knows no limit in bytes, so it is asked again and again, for twice as many entries each time
-- and for eight at most: no more than that many come after the limit.
-- KEYS: streams in the order of this read. ARGV: group, consumer, count, bytes.
-- Returns {stream, {{id, {field, value, ...}}, ...}} for each stream that had entries.
local left, bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
local size = 1
local answer = {}
for _, stream in ipairs(KEYS) do
  local rows = {}
  while left > 0 and bytes > 0 do
    local asked = math.min(size, left)
    local read = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', asked, 'STREAMS', stream, '>')
    local found = read and read[1][2] or {}
    for _, row in ipairs(found) do
      rows[#rows + 1] = row
      for _, part in ipairs(row[2]) do
        bytes = bytes - #part
      end
    end
    left = left - #found
    if #found < asked then
      break
    end
    size = math.min(8, 2 * size)
  end
  if #rows > 0 then
    answer[#answer + 1] = {stream, rows}
  end
end
return answer
