package sim

import (
	"net/http"
	"time"
)

// fill puts something into the tables that are empty in a world with a run, as users, hosts and other servers do.
func (w *world) fill() {
	for _, r := range []struct {
		path string
		body object
	}{
		{"users/create", object{"username": "somebody", "global_role": "user", "email": "somebody@example.com"}},
		{"projects/main/add_members", object{"members": []object{{"username": "somebody", "project_role": "manager"}}}},
		{"users/public_keys/add", object{"key": w.public}},
		{"project/main/secrets/create_or_update", object{"name": "TOKEN", "value": "hidden"}},
		{"project/main/repos/init", object{"repo_id": "code", "repo_info": object{"repo_type": "remote", "repo_name": "code"},
			"repo_creds": object{"clone_url": "https://example.com/code.git", "private_key": nil, "oauth_token": "hidden"}}},
		{"project/guests/backends/create", object{"type": "crusoe"}},
	} {
		if code := w.call(r.path, r.body, nil); code != http.StatusOK {
			w.t.Errorf("%s: %d", r.path, code)
		}
	}
	now := time.Now().UnixMicro()
	for _, row := range []string{
		`export (id, project_id, name, created_at) SELECT '0b6a3b9e-6f0e-4d5e-9a55-7f6f0f3b8c14', project_id, 'shared', $1 FROM run`,
		`export_item (export_id, object_id, kind) SELECT '0b6a3b9e-6f0e-4d5e-9a55-7f6f0f3b8c14', id, 'fleet' FROM fleet WHERE $1 > 0`,
		`import (id, export_id, project_id, created_at) SELECT '0b6a3b9e-6f0e-4d5e-9a55-7f6f0f3b8c15', '0b6a3b9e-6f0e-4d5e-9a55-7f6f0f3b8c14', id, $1 FROM project WHERE name = 'guests'`,
		`volume (id, project_id, user_id, name, status, backend, created_at, shard, data)
			SELECT '0b6a3b9e-6f0e-4d5e-9a55-7f6f0f3b8c11', project_id, user_id, 'disk', 'failed', 'crusoe', $1, 0,
			'{"configuration": {"type": "volume", "name": "disk", "backend": "crusoe", "region": "north", "volume_id": "disk-1"}}' FROM run`,
		`gateway (id, project_id, name, status, created_at, data)
			SELECT '0b6a3b9e-6f0e-4d5e-9a55-7f6f0f3b8c12', project_id, 'gate', 'failed', $1,
			'{"configuration": {"type": "gateway", "name": "gate", "backend": "crusoe", "region": "north"}}' FROM run`,
		`volume_attachment (volume_id, instance_id, created_at) SELECT '0b6a3b9e-6f0e-4d5e-9a55-7f6f0f3b8c13', instance_id, $1 FROM job`,
		`blob (sha256, size, created_at, data) VALUES ('ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad', 3, $1, x'616263')`,
		`assignment_ended (job_id, instance_id, project_id, run_id, blocks, of_blocks, created_at, ended_at) SELECT 'former', instance_id, project_id, run_id, 1, 1, $1 - 60000000, $1 FROM job`,
		`instance_interval (instance_id, price, started_at) SELECT instance_id, 1, $1 FROM job`,
		`instance_health (instance_id, at, status, message, response) SELECT instance_id, $1, 'healthy', '', '' FROM job`,
		`job_metrics (job_id, at, cpu_micros, memory, working_set, gpus) SELECT id, $1, 1000, 1000, 1000, '[]' FROM job`,
		`job_dcgm (job_id, at, packed) SELECT id, $1, x'' FROM job`,
		`service_request (run_id, slot, requests) SELECT id, $1 / 1000000, 1 FROM run`,
		`replica (owner, expires_at) VALUES ('another', $1)`,
		// Of a server that keeps logs in the database or sends them to a service.
		`log_stream (job_id, source, size, last_at, written_at) SELECT id, 'job', 3, $1, $1 FROM job`,
		`log_chunk (job_id, source, start, at, data) SELECT id, 'job', 0, $1, x'616263' FROM job`,
		`log_batch (job_id, source, start, size, first_at, last_at, service, tried_at, tries, sent_at, layout) SELECT id, 'job', 0, 3, $1, $1, 'service', $1, 1, $1, x'' FROM job`,
		`log_shipment (job_id, source, shard, name, incarnation, size, sent, dropped, waiting_since, shipping) SELECT id, 'job', 0, 'main/victim', '', 3, 3, 3, $1, FALSE FROM job`,
	} {
		w.current().sql(`INSERT OR IGNORE INTO `+row, now)
	}
}

// empty has the user delete what fill has made, as far as the server lets it, and returns what it refuses.
func (w *world) empty() (refused []string) {
	for _, r := range []struct {
		path string
		body object
	}{
		{"project/main/volumes/delete", object{"names": []string{"disk"}}},
		{"project/main/gateways/delete", object{"names": []string{"gate"}}},
		{"project/main/exports/delete", object{"name": "shared"}},
		{"project/main/secrets/delete", object{"secrets_names": []string{"TOKEN"}}},
		{"project/main/repos/delete", object{"repos_ids": []string{"code"}}},
		{"project/guests/backends/delete", object{"backends_names": []string{"crusoe"}}},
		{"users/delete", object{"users": []string{"somebody"}}},
	} {
		if w.call(r.path, r.body, nil) != http.StatusOK {
			refused = append(refused, r.path)
		}
	}
	return refused
}
