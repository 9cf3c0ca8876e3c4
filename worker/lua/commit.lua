-- Finish entries and publish their outcomes. XACK goes first: it returns 1 only to the first who commits an entry, and
-- nothing is written for anybody else. Nothing after it can fail and leave an entry without its outcome: SET overwrites
-- any type, the dead stream is probed before the first XACK, and a reply that is refused is passed over. XACK needs no
-- memory, so Redis lets the script finish even when it is full.
-- KEYS: three streams, dead letters, then result and reply keys.
-- ARGV: group, seconds to live, number of dead letters; then for each outcome: stream number, entry id, number of its
-- result key or 0, number of its reply key or 0, payload, dead letter or ''.
-- Returns for each outcome 0: somebody else was first; 1: done; 2: done, but the reply was refused; 3: this very result
-- was committed before, by a call whose answer was lost. No two workers write the same result, for it says how long the
-- document took; failures may well be the same.
if tonumber(ARGV[3]) > 0 then
  redis.call('XLEN', KEYS[4])
end
local states = {}
for i = 4, #ARGV, 6 do
  local stream, id = KEYS[tonumber(ARGV[i])], ARGV[i + 1]
  local state = redis.call('XACK', stream, ARGV[1], id)
  if state == 1 then
    local result, reply, payload, dead = tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3]), ARGV[i + 4], ARGV[i + 5]
    if result > 0 then
      redis.call('SET', KEYS[result], payload, 'EX', ARGV[2])
    end
    if reply > 0 then
      local added = redis.pcall('XADD', KEYS[reply], '*', 'result', payload)
      if type(added) == 'table' and added.err then
        state = 2
      else
        redis.call('EXPIRE', KEYS[reply], ARGV[2])
      end
    end
    if dead ~= '' then
      redis.call('XADD', KEYS[4], '*', 'letter', dead)
    end
    redis.call('XDEL', stream, id)
  elseif ARGV[i + 5] == '' and redis.pcall('GET', KEYS[tonumber(ARGV[i + 2])]) == ARGV[i + 4] then
    state = 3
  end
  states[#states + 1] = state
end
return states
