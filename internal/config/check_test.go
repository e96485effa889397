package config

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/recorded"
)

// What can be read but not applied, all at once and with places.
func TestCheck(t *testing.T) {
	for name, tt := range map[string]struct{ doc, want string }{
		"valid":   {"type: task\nname: ok\nworking_dir: ~/a\nenv: {A: \"${{ secrets.A }}\"}\ncommands: [\"echo ${{ run.args }} $${{ $HOME\"]", ""},
		"name":    {"type: task\nname: Bad_Name!\ncommands: [a]", "f:2:7: task.name: Resource name should match regex '^[a-z][a-z0-9-]{1,40}$'"},
		"volume":  {"type: volume\nname: B\nbackend: lium\nvolume_id: v", "f:2:7: volume.name: Resource name should match regex '^[a-z][a-z0-9-]{1,40}$'"},
		"gateway": {"type: gateway\nname: B\nbackend: aws\nregion: r\ndomain: a.b", "f:2:7: gateway.name: Resource name should match regex '^[a-z][a-z0-9-]{1,40}$'"},
		"all at once": {
			"type: task\nname: B\nworking_dir: 3\nenv:\n  A: \"${{ secrets.my-key\"\n  B: ${{ env.A }}\ncommands:\n- fine\n- echo ${{ run.arg }} ${{\n",
			"f:2:7: task.name: Resource name should match regex '^[a-z][a-z0-9-]{1,40}$'\n" +
				"f:3:14: task.working_dir: working_dir must be absolute\n" +
				"f:5:6: task.env.A: No pattern closing: ${{ secrets.my-key\n" +
				"f:6:6: task.env.B: Failed to interpolate due to missing vars: ['env.A']\n" +
				"f:9:3: task.commands[1]: No pattern closing: ${{",
		},
		"listed env": {"type: task\nenv:\n- B\n- A=${{ secrets.x\ncommands: [a]", "f:4:3: task.env[1]: No pattern closing: ${{ secrets.x"},
		"registry":   {"type: task\nimage: a\nregistry_auth:\n  username: ${{ env.A }}\n  password: ${{ x y }}", "f:5:13: task.registry_auth.password: Illegal reference name: x y"},
		"node group": {"type: task\ngroups:\n- commands: [a, \"${{\"]", "f:3:17: task.groups[0].commands[1]: No pattern closing: ${{"},
		"replica group": {
			"type: service\nport: 80\nreplicas:\n- count: 1\n  commands: [\"${{\"]", "f:5:14: service.groups[0].commands[0]: No pattern closing: ${{",
		},
		"probe": {"type: service\nport: 80\ncommands: [a]\nprobes:\n- {type: http, body: \"${{ a\"}", "f:5:22: service.probes[0].body: No pattern closing: ${{ a"},

		"empty fleet":     {"type: fleet\nname: ok", "f:1:1: fleet: No ssh_config or nodes specified"},
		"fleet with both": {"type: fleet\nnodes: 1\nssh_config: {user: u, identity_file: k, hosts: [a]}", "f:2:8: fleet.nodes: ssh_config and nodes are mutually exclusive"},
		"fleet with env":  {"type: fleet\nnodes: 1\nenv: [A=1]", "f:3:6: fleet.env: Backend fleet configuration does not support the following fields: ['env']"},
		"large fleet":     {"type: fleet\nnodes: 10001", "f:2:8: fleet.nodes: nodes: a fleet cannot be made with more than 10000 instances"},
		"ssh fleet":       {"type: fleet\nssh_config:\n  user: u\n  identity_file: ~/missing\n  hosts: [a]", ""},
		"bad ssh fleet": {
			"type: fleet\nname: B\nregions: [r]\ntags: {a: b}\nssh_config:\n  hosts:\n  - a\n  - {hostname: b, internal_ip: 10.0.0.1, user: u, identity_file: k}\n",
			"f:2:7: fleet.name: Resource name should match regex '^[a-z][a-z0-9-]{1,40}$'\n" +
				"f:3:10: fleet.regions: SSH fleet configuration does not support the following fields: ['regions', 'tags']\n" +
				"f:7:3: fleet.ssh_config.hosts: internal_ip must be specified for all hosts\n" +
				"f:7:5: fleet.ssh_config.hosts[0]: No ssh key specified for host a\n" +
				"f:7:5: fleet.ssh_config.hosts[0]: No ssh user specified for host a",
		},
		"addresses": {
			"type: fleet\nssh_config:\n  user: u\n  identity_file: k\n  network: 10.0.0.0/8\n  hosts: [{hostname: b, internal_ip: 10.0.0.1}]",
			"f:5:12: fleet.ssh_config.network: internal_ip is mutually exclusive with network",
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := Parse("f", []byte(tt.doc))
			if err != nil {
				t.Fatalf("refused when read: %v", err)
			}
			got := ""
			if err := a.Check(); err != nil {
				if _, ok := errors.AsType[*Errors](err); !ok {
					t.Errorf("error %T", err)
				}
				got = err.Error()
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestAbsoluteRecorded(t *testing.T) {
	type row struct {
		In  string
		Out bool
	}
	recorded.Rows(t, "testdata/absolute-path.jsonl", func(t *testing.T, r row) {
		if got := absolute(r.In); got != r.Out {
			t.Errorf("absolute(%q) = %v, recorded %v", r.In, got, r.Out)
		}
	})
}

func TestKindOf(t *testing.T) {
	for _, tt := range []struct {
		file, doc string
		want      Kind
	}{
		{"a/.dstack/profiles.yml", "", KindProfiles},
		{"profiles.yaml", "x: [", KindProfiles},
		{"-", "profiles: []", KindProfiles},
		{"config.yml", "projects: []", KindServer},
		{"config.yml", "type: task\nprojects: []", KindConfiguration},
		{".dstack.yml", "type: task", KindConfiguration},
		{".dstack.yml", "x: [", KindConfiguration},
		{".dstack.yml", "3", KindConfiguration},
	} {
		if got := KindOf(tt.file, []byte(tt.doc)); got != tt.want {
			t.Errorf("%s %q: %v, want %v", tt.file, tt.doc, got, tt.want)
		}
	}
}
