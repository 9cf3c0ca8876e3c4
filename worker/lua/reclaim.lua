-- Take over entries that nobody has renewed for a lease. XCLAIM counts it as a delivery. Entries that would be delivered
-- for the ARGV[5]th time or more are suspected of killing their workers: either nothing but suspects is taken, or none.
-- KEYS: streams, clock. ARGV: group, consumer, lease in milliseconds, count, deliveries of a suspect, 1 to take suspects.
-- Returns 1 if a suspect was left, otherwise 0, then {stream, {id, {field, value, ...}}, deliveries} for each entry.
local left, takes_suspects = tonumber(ARGV[4]), ARGV[6] == '1'
local answer = {0}
local clock = table.remove(KEYS)

-- Redis' clock may be set back. What was renewed before then seems to be renewed in the future, and would belong to its
-- worker, dead or alive, until the clock is there again. So every lease begins anew.
local function begin_leases_anew()
  for _, stream in ipairs(KEYS) do
    local from = '-'
    while from do
      local page = redis.call('XPENDING', stream, ARGV[1], from, '+', 100)
      for _, pending in ipairs(page) do
        redis.call('XCLAIM', stream, ARGV[1], pending[2], 0, pending[1], 'JUSTID')
      end
      from = page[100] and '(' .. page[100][1]
    end
  end
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now < tonumber(redis.call('GET', clock) or 0) - 1000 then
  begin_leases_anew()
end
for _, stream in ipairs(KEYS) do
  -- Before Redis 7.2 a read that finds nothing does not count as a sign of life; this one, of no entry, does.
  redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1, 'STREAMS', stream,
    '18446744073709551615-18446744073709551614')
  local from = '-'
  while left > 0 and from do
    local page = redis.call('XPENDING', stream, ARGV[1], 'IDLE', ARGV[3], from, '+', 100)
    for _, pending in ipairs(page) do
      local id, deliveries = pending[1], pending[4] + 1
      local suspect = deliveries >= tonumber(ARGV[5])
      if suspect and not takes_suspects then
        answer[1] = 1
      elseif left > 0 and suspect == takes_suspects then
        local claimed = redis.call('XCLAIM', stream, ARGV[1], ARGV[2], 0, id)
        if claimed[1] then
          answer[#answer + 1] = {stream, claimed[1], deliveries}
          left = left - 1
        else
          -- Somebody deleted it from the stream; Redis 6.2 would keep it pending for ever.
          redis.call('XACK', stream, ARGV[1], id)
        end
      end
    end
    from = page[100] and '(' .. page[100][1]
  end
end
-- After the writes above, for then Redis takes it even when its memory is full.
redis.call('SET', clock, now, 'EX', 86400)
return answer
