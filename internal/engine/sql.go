package engine

// nextEpoch is the next of an epoch, and of one that somebody made none the first: 0 is that of no owner.
const nextEpoch = `CASE WHEN epoch BETWEEN 0 AND 4000000000000000000 THEN CAST(epoch AS BIGINT) + 1 ELSE 1 END`

const mendEpoch = `UPDATE shard SET epoch = $1 WHERE id = $2`

const selectEpoch = `SELECT epoch FROM shard WHERE id = $1`

// addShards makes up for rows that are missing: what belongs to them would stand still. Their
// epochs are above all that a replica may remember.
const addShards = `
INSERT INTO shard (id, owner, epoch, expires_at)
WITH RECURSIVE n (id) AS (SELECT 0 UNION ALL SELECT id + 1 FROM n WHERE id < 63)
SELECT id, '', (SELECT coalesce(max(epoch), 0) + 1000 FROM shard), 0 FROM n WHERE id NOT IN (SELECT id FROM shard)
ON CONFLICT (id) DO NOTHING`

const takeAllShards = `
UPDATE shard SET owner = $1, epoch = ` + nextEpoch + `, expires_at = $2
RETURNING id, epoch`

const countTheirShards = `SELECT count(*) FROM shard WHERE owner NOT IN ($1, '')`

// selectClock is the time of the database, PostgreSQL only, in Unix microseconds.
const selectClock = `SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint`

const joinReplicas = `
INSERT INTO replica (owner, expires_at, joined_at) VALUES ($1, $2, $3)
ON CONFLICT (owner) DO UPDATE SET expires_at = excluded.expires_at`

const leaveReplicas = `DELETE FROM replica WHERE owner = $1`

// forgetReplicas removes those that died without leaving.
const forgetReplicas = `DELETE FROM replica WHERE expires_at < $1`

// selectReplicas says how long each was there when it was heard of last, and a lease; -1 when it does not say
// since when it is there.
const selectReplicas = `
SELECT owner, CASE joined_at WHEN 0 THEN -1 ELSE expires_at - joined_at END
FROM   replica WHERE expires_at > $1`

const renewShards = `
UPDATE shard SET expires_at = $2 WHERE owner = $1
RETURNING id, epoch`

// freeSurplus gives away all but the first $2 shards of a replica.
const freeSurplus = `
UPDATE shard SET owner = '', expires_at = 0
WHERE owner = $1 AND id NOT IN (SELECT id FROM shard WHERE owner = $1 ORDER BY id LIMIT $2)`

const takeShards = `
UPDATE shard
SET    owner = $1, epoch = ` + nextEpoch + `, expires_at = $2
WHERE  id IN (SELECT id FROM shard WHERE expires_at < $3 ORDER BY id LIMIT $4)
  AND  expires_at < $3
RETURNING id, epoch`

const releaseShards = `UPDATE shard SET owner = '', expires_at = 0 WHERE owner = $1`
