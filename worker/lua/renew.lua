-- Reset the idle time of entries, but only of those that this consumer still holds: claiming without looking would steal
-- back what another worker took over. JUSTID keeps the count of deliveries.
-- KEYS: streams. ARGV: group, consumer, then stream number and entry id of each entry.
-- Returns the positions, from 0, of the entries that this consumer does not hold any more.
local lost = {}
for i = 3, #ARGV, 2 do
  local stream, id = KEYS[tonumber(ARGV[i])], ARGV[i + 1]
  if #redis.call('XPENDING', stream, ARGV[1], id, id, 1, ARGV[2]) == 0 then
    lost[#lost + 1] = (i - 3) / 2
  else
    redis.call('XCLAIM', stream, ARGV[1], ARGV[2], 0, id, 'JUSTID')
  end
end
return lost
