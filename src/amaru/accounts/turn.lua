-- One turn of a holder: `grants.py` and `bank_sql.py`, said for Redis.
--
-- KEYS[1]  prefix of all keys, with a hash tag, so that a cluster keeps them together
-- ARGV[1]  the turn, as JSON
-- Answers JSON: {ok = …}, {stale = number}, {unknown = [keys]} or {new = true}: this Redis knows nothing yet.
--
-- Amounts are below 2^53, which Lua's doubles hold exactly; they are written with %.0f, since tostring() rounds.

local P = KEYS[1]
local turn = cjson.decode(ARGV[1])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local me = turn.holder

local function whole(n) return string.format('%.0f', n) end

-- A Redis that was restarted may have forgotten its last second, one that was flushed all: neither is believed. Keys
-- carry the epoch, so that nothing of an earlier one is read.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or 'unknown'
local epoch = redis.call('GET', P .. 'epoch')
if not epoch or string.sub(epoch, 1, #run) ~= run then
  if not turn.holders then return cjson.encode({new = true}) end
  epoch = run .. '-' .. time[1] .. '-' .. time[2]
  redis.call('SET', P .. 'epoch', epoch)
  P = P .. epoch .. ':'
  for _, holder in ipairs(turn.holders) do redis.call('SADD', P .. 'awaited', holder) end
  redis.call('SET', P .. 'awaited_until', now + turn.live_s)
  redis.call('SET', P .. 'generation', whole(now * 1000)) -- above all that holders acknowledged before
else
  P = P .. epoch .. ':'
end
local function keep(key) redis.call('EXPIRE', key, turn.keep_s) end

local last = tonumber(redis.call('HGET', P .. 'turns', me) or '0')
if turn.number <= last then return cjson.encode({stale = last}) end

-- Counters: what is used (settled, or standing) is the SQL store's to say, newest version first.
local rows, unknown, wanted = {}, {}, {}
for _, key in ipairs(turn.keys) do wanted[key] = true end
local had = turn.whole and redis.call('SMEMBERS', P .. 'h:' .. me) or {}
for _, key in ipairs(had) do wanted[key] = true end
for key in pairs(wanted) do
  local found = redis.call('HMGET', P .. 'c:' .. key, 'amount', 'used', 'version', 'leased', 'generation')
  local said = turn.said[key]
  if not found[1] and not said then
    table.insert(unknown, key)
  else
    local row = {amount = tonumber(found[1] or '0'), used = tonumber(found[2] or '0'),
                 version = tonumber(found[3] or '-1'), leased = tonumber(found[4] or '0'),
                 recall = tonumber(found[5] or '0'), generation = 0}
    if said and said.version > row.version then row.used, row.version = said.used, said.version end
    if said and not found[1] then row.amount = said.amount end
    if turn.amounts[key] then row.amount = turn.amounts[key] end
    rows[key] = row
  end
end
if #unknown > 0 then return cjson.encode({unknown = unknown}) end

local function free(row) return row.amount - row.used - row.leased end

-- What this holder has, in whole numbers.
local held = {}
local function lease(key, amount)
  if not held[key] then held[key] = tonumber(redis.call('HGET', P .. 'l:' .. key, me) or '0') end
  rows[key].leased = rows[key].leased + (amount - held[key])
  held[key] = amount
end
if turn.whole then
  for _, key in ipairs(had) do if not turn.leases[key] then lease(key, 0) end end
  redis.call('SREM', P .. 'awaited', me)
end
for key, has in pairs(turn.leases) do
  lease(key, has[1])
  redis.call('HSET', P .. 'a:' .. key, me, whole(has[2]))
end

-- Who lives, and which recalls go on. Between: a clock that was set back keeps nobody alive for ever.
local function around(span) return whole((now - span) * 1000), whole((now + span) * 1000) end
redis.call('ZADD', P .. 'seen', whole(now * 1000), me)
local from, to = around(turn.live_s)
local live = {}
for _, holder in ipairs(redis.call('ZRANGEBYSCORE', P .. 'seen', from, to)) do live[holder] = true end
local holders = 0
for _ in pairs(live) do holders = holders + 1 end
from, to = around(turn.recall_s)
local recalled = redis.call('ZRANGEBYSCORE', P .. 'recalls', from, to)
for _, key in ipairs(recalled) do
  if rows[key] then rows[key].generation = rows[key].recall end
end

-- After a start nothing is granted before all that live have told what they have.
local announce = turn.epoch ~= epoch and not turn.whole
local hushed = announce or redis.call('SCARD', P .. 'awaited') > 0
  and now < tonumber(redis.call('GET', P .. 'awaited_until') or '0')

local function acknowledged(key)
  local lowest = math.huge
  local others = redis.call('HGETALL', P .. 'l:' .. key)
  for at = 1, #others, 2 do
    if others[at] ~= me and live[others[at]] and tonumber(others[at + 1]) > 0 then
      lowest = math.min(lowest, tonumber(redis.call('HGET', P .. 'a:' .. key, others[at]) or '0'))
    end
  end
  return lowest
end

local granted, decisions, awaited, fresh, lapsed = {}, {}, {}, {}, {}
for key, row in pairs(rows) do lapsed[key] = row.generation == 0 end

local function grant(key, amount)
  if amount > 0 then
    if not held[key] then lease(key, tonumber(redis.call('HGET', P .. 'l:' .. key, me) or '0')) end
    lease(key, held[key] + amount)
    granted[key] = (granted[key] or 0) + amount
  end
end

local function recall(key, since)
  redis.call('ZADD', P .. 'recalls', whole(now * 1000), key)
  if since > 0 and not lapsed[key] then return since end
  if not fresh[key] then
    fresh[key] = redis.call('INCR', P .. 'generation')
    rows[key].generation, rows[key].recall = fresh[key], fresh[key]
  end
  return fresh[key]
end

for _, needs in ipairs(turn.asks) do
  local wanting, since, refused, shorts = false, {}, -1, {}
  for at, need in ipairs(needs) do
    shorts[at] = need[2] > free(rows[need[1]])
    since[at] = need[3]
    if shorts[at] or awaited[need[1]] then wanting = true end
  end
  if hushed then
    table.insert(decisions, {1, since, 0})
  elseif not wanting then
    for _, need in ipairs(needs) do grant(need[1], need[2]) end
    table.insert(decisions, {0, {}, 0})
  else
    for at, need in ipairs(needs) do
      if shorts[at] or awaited[need[1]] then since[at] = recall(need[1], need[3]) end
      if refused < 0 and shorts[at] and acknowledged(need[1]) >= since[at] then refused = at - 1 end
    end
    if refused < 0 then for _, need in ipairs(needs) do awaited[need[1]] = true end end
    table.insert(decisions, refused < 0 and {1, since, 0} or {2, {}, refused})
  end
end
if not hushed then
  for key, want in pairs(turn.wants) do
    if rows[key].generation == 0 then
      grant(key, math.max(0, math.min(want, math.floor(free(rows[key]) / (2 * math.max(holders, 1))))))
    end
  end
end

-- All of it is written.
for key, row in pairs(rows) do
  redis.call('HSET', P .. 'c:' .. key, 'amount', whole(row.amount), 'used', whole(row.used), 'version',
             whole(row.version), 'leased', whole(row.leased), 'generation', whole(row.recall))
  keep(P .. 'c:' .. key)
end
for key, amount in pairs(held) do
  if amount > 0 then
    redis.call('HSET', P .. 'l:' .. key, me, whole(amount))
    redis.call('SADD', P .. 'h:' .. me, key)
    keep(P .. 'l:' .. key)
    keep(P .. 'a:' .. key)
  else
    redis.call('HDEL', P .. 'l:' .. key, me)
    redis.call('HDEL', P .. 'a:' .. key, me)
    redis.call('SREM', P .. 'h:' .. me, key)
  end
end
redis.call('HSET', P .. 'turns', me, whole(turn.number))
redis.call('ZREMRANGEBYSCORE', P .. 'recalls', '-inf', whole((now - turn.keep_s) * 1000))
for _, name in ipairs({'h:' .. me, 'turns', 'seen', 'recalls', 'generation', 'awaited', 'awaited_until'}) do
  keep(P .. name)
end

-- JSON of numbers is rounded to 14 digits, so amounts go as text.
local going, left = {}, {}
for _, key in ipairs(redis.call('ZRANGEBYSCORE', P .. 'recalls', from, to)) do
  local row = rows[key]
  if not row then
    local found = redis.call('HMGET', P .. 'c:' .. key, 'amount', 'used', 'leased', 'generation')
    if found[1] then
      row = {amount = tonumber(found[1]), used = tonumber(found[2]), leased = tonumber(found[3]),
             recall = tonumber(found[4])}
    end
  end
  if row then going[key] = {row.recall, whole(free(row))} end
end
for key, row in pairs(rows) do left[key] = whole(free(row)) end
for key, amount in pairs(granted) do granted[key] = whole(amount) end
return cjson.encode({ok = true, now = time[1] .. '.' .. string.format('%06d', tonumber(time[2])), epoch = epoch,
                     announce = announce, decisions = decisions, granted = granted, recalls = going, free = left})
