package instance

import (
	"testing"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// A host is told by its agent's key and its boot, or where a cloud says that its machine is: copies of a disk have the key.
func TestTaken(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx, s := t.Context(), &Service{Config: Config{DB: db}, known: newKnown()}
		on := func(hostname string) *api.JobProvisioningData { return &api.JobProvisioningData{Hostname: &hostname} }
		list := map[string]Instance{
			"new":       {Name: "n-1", Status: api.InstanceProvisioning, Data: Data{Offer: &api.InstanceOffer{}, Provisioning: on("192.0.2.1")}},
			"paid":      {Name: "n-0", Status: api.InstanceBusy, Data: Data{Offer: &api.InstanceOffer{}, Provisioning: on("192.0.2.1"), Host: &agentapi.HostInfo{InstanceKey: "k-paid", BootID: "b"}}},
			"elsewhere": {Name: "n-2", Status: api.InstanceIdle, Data: Data{Offer: &api.InstanceOffer{}, Provisioning: on("192.0.2.9"), Host: &agentapi.HostInfo{InstanceKey: "k-elsewhere", BootID: "b"}}},
			"host":      {Name: "h-0", SSHHost: "192.0.2.2:22", Status: api.InstanceIdle, Data: Data{Remote: &RemoteHost{}, Host: &agentapi.HostInfo{InstanceKey: "k-host", BootID: "b"}}},
			"leaving":   {Name: "h-1", SSHHost: "192.0.2.3:22", Status: api.InstanceTerminating, Data: Data{Remote: &RemoteHost{}, Host: &agentapi.HostInfo{InstanceKey: "k-leaving", BootID: "b"}}},
			"gone":      {Name: "n-3", Status: api.InstanceTerminated, Deleted: true, Data: Data{Offer: &api.InstanceOffer{}, Provisioning: on("192.0.2.1"), Host: &agentapi.HostInfo{InstanceKey: "k-gone", BootID: "b"}}},
			"another's": {Name: "o-0", ProjectID: "p2", Status: api.InstanceIdle, Data: Data{Offer: &api.InstanceOffer{}, Host: &agentapi.HostInfo{InstanceKey: "k-another's", BootID: "b"}}},
			"damaged":   {Name: "n-4", Status: api.InstanceIdle, Data: Data{Offer: &api.InstanceOffer{}, Host: &agentapi.HostInfo{InstanceKey: "k-damaged", BootID: "b"}}},
		}
		err := db.Write(ctx, func(tx *store.Tx) error {
			for id, inst := range list {
				inst.ID, inst.FleetID = id, id
				if inst.ProjectID == "" {
					inst.ProjectID = "p"
				}
				if err := insert(ctx, tx, &inst); err != nil {
					return err
				}
				if err := update(ctx, tx, &inst); err != nil {
					return err
				}
			}
			_, err := tx.ExecContext(ctx, `UPDATE instance SET data = '{' WHERE id = 'damaged'`)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		const inUse, goes = "the host is in use under another name: ", "the host is being removed under another name: "
		for name, tt := range map[string]struct{ key, boot, want string }{
			"no agent of ours":             {"k", "b", ""},
			"an agent without a key":       {"", "b", ""},
			"a machine":                    {"k-paid", "b", inUse + "instance n-0"},
			"a machine that has restarted": {"k-paid", "b2", inUse + "instance n-0"},
			"made of a machine's disk":     {"k-elsewhere", "b2", ""},
			"a host":                       {"k-host", "b", inUse + "instance h-0"},
			"a host that goes":             {"k-leaving", "b", goes + "instance h-1"},
			"a machine that has gone":      {"k-gone", "b", ""},
			"of another project":           {"k-another's", "b", inUse + "an instance of another project"},
			"whose record is damaged":      {"k-damaged", "b2", inUse + "instance n-4"},
		} {
			t.Run(name, func(t *testing.T) {
				if got, err := s.Taken(ctx, "new", tt.key, tt.boot); err != nil || got != tt.want {
					t.Errorf("%q, %v, want %q", got, err, tt.want)
				}
			})
		}
	})
}
