package metrics

const insertPoint = `
INSERT INTO job_metrics (job_id, at, cpu_micros, memory, working_set, gpus)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (job_id, at) DO NOTHING`

const nearPoint = `SELECT at FROM job_metrics WHERE job_id = $1 AND at > $2 AND at < $3 LIMIT 1`

const prunePoints = `DELETE FROM job_metrics WHERE job_id = $1 AND at < $2`

const deletePoints = `DELETE FROM job_metrics WHERE job_id = $1`

const expirePoints = `
DELETE FROM job_metrics WHERE (job_id, at) IN (SELECT job_id, at FROM job_metrics WHERE at < $1 ORDER BY at LIMIT $2)`

const selectPoints = `
SELECT at, cpu_micros, memory, working_set, gpus FROM job_metrics
WHERE  job_id = $1 AND at >= $2 AND at <= $3
ORDER BY at DESC LIMIT $4`

const firstPoint = `SELECT min(at) FROM job_metrics WHERE job_id = $1 AND at >= $2`

const latestPoints = `
SELECT m.job_id, m.at, m.cpu_micros, m.memory, m.working_set, m.gpus FROM job_metrics m
JOIN (SELECT job_id, max(at) AS at FROM job_metrics GROUP BY job_id) newest ON newest.job_id = m.job_id AND newest.at = m.at
WHERE m.at >= $1`

const insertHealth = `
INSERT INTO instance_health (instance_id, at, status, message, response)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (instance_id, at) DO NOTHING`

const expireHealth = `
DELETE FROM instance_health WHERE (instance_id, at) IN (SELECT instance_id, at FROM instance_health WHERE at < $1 ORDER BY at LIMIT $2)`

const selectHealth = `
SELECT at, response FROM instance_health
WHERE  instance_id = $1 AND at >= $2 AND at <= $3
ORDER BY at DESC LIMIT $4`

const latestHealth = `SELECT at FROM instance_health WHERE instance_id = $1 ORDER BY at DESC LIMIT 1`

const ageOfText = `SELECT at FROM job_dcgm WHERE job_id = $1`

const putText = `
INSERT INTO job_dcgm (job_id, at, packed, size) VALUES ($1, $2, $3, $4)
ON CONFLICT (job_id) DO UPDATE SET at = excluded.at, packed = excluded.packed, size = excluded.size`

const selectTexts = `SELECT job_id, size, packed FROM job_dcgm WHERE at >= $1`

const expireTexts = `DELETE FROM job_dcgm WHERE job_id IN (SELECT job_id FROM job_dcgm WHERE at < $1 ORDER BY at LIMIT $2)`
