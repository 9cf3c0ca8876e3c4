-- The documents of one sender among the unfinished ones of a stream, a page at a time.
-- KEYS: stream. ARGV: where the page begins, its entries, what the ids of the sender's documents begin with.
-- Returns the id of the page's last entry, or '' at the stream's end, then the documents' ids.
local page = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])
local answer = {#page == tonumber(ARGV[2]) and page[#page][1] or ''}
for _, entry in ipairs(page) do
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'id' and string.sub(entry[2][i + 1], 1, #ARGV[3]) == ARGV[3] then
      answer[#answer + 1] = entry[2][i + 1]
    end
  end
end
return answer
