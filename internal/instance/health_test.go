package instance

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/host"
	"dstack/internal/metrics"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// Nobody gets blocks of an instance whose GPUs have failed, however it was decided.
func TestClaimOfFailedGPUs(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := &Service{known: newKnown(), Config: Config{DB: db}}
		for health, free := range map[api.HealthStatus]bool{"": true, api.Healthy: true, api.Warning: true, api.Failure: false} {
			inst := Instance{ID: "i" + string(health), ProjectID: "p", FleetID: "f" + string(health), Name: "i", Status: api.InstanceIdle, Blocks: 1,
				Data: Data{Health: health, Offer: &api.InstanceOffer{}, Provisioning: &api.JobProvisioningData{}}}
			if inst.Available() != free {
				t.Errorf("with the health %q it is available: %v", health, !free)
			}
			err := db.Write(t.Context(), func(tx *store.Tx) error {
				if err := insert(t.Context(), tx, &inst); err != nil {
					return err
				}
				_, err := s.Claim(t.Context(), tx, Claim{InstanceID: inst.ID, JobID: "j" + string(health), Blocks: 1, Of: 1})
				return err
			})
			if err != nil && !errors.Is(err, store.ErrConflict) || (err == nil) != free {
				t.Errorf("with the health %q a claim gives %v", health, err)
			}
		}
	})
}

// checks stores none.
type checks struct{}

func (checks) AddHealth(context.Context, *store.Tx, metrics.Health) (bool, error) { return true, nil }

// What DCGM says of the other GPUs is kept while some are missing, and shown when they are back.
func TestCheckedWhileGPUsAreMissing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		freed := 0
		s := &Service{known: newKnown(), Config: Config{DB: db, Checks: checks{}, Freed: func(string) { freed++ }}}
		inst := Instance{ID: "i", ProjectID: "p", FleetID: "f", Name: "i", Status: api.InstanceIdle, Blocks: 1, Data: Data{LostGPUs: 1, Offer: &api.InstanceOffer{}}}
		if err := db.Write(t.Context(), func(tx *store.Tx) error { return insert(t.Context(), tx, &inst) }); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			dcgm int
			want api.HealthStatus
		}{{20, api.Failure}, {10, api.Warning}, {0, api.Healthy}} {
			if err := s.Checked(t.Context(), inst.ID, agentapi.Health{DCGM: &agentapi.DCGMHealth{OverallHealth: c.dcgm}}); err != nil {
				t.Fatal(err)
			}
			got, err := s.Get(t.Context(), db.Read(), inst.ID)
			if err != nil || got.Data.Health != c.want || got.Well() || freed > 0 {
				t.Errorf("with %d: %q, well: %v, freed: %d (%v)", c.dcgm, got.Data.Health, got.Well(), freed, err)
			}
		}
		var events int
		if err := db.Read().QueryRowContext(t.Context(), "SELECT count(*) FROM event").Scan(&events); err != nil || events > 0 {
			t.Errorf("%d events (%v), want none: it has failed all the time", events, err)
		}
	})
}

// The queue is looked at whenever an instance gets well or fails: one that has failed is waited for no more.
func TestCheckedWakesTheQueue(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		freed := 0
		s := &Service{known: newKnown(), Config: Config{DB: db, Checks: checks{}, Freed: func(string) { freed++ }}}
		inst := Instance{ID: "i", ProjectID: "p", FleetID: "f", Name: "i", Status: api.InstanceIdle, Blocks: 1, Data: Data{Offer: &api.InstanceOffer{}}}
		if err := db.Write(t.Context(), func(tx *store.Tx) error { return insert(t.Context(), tx, &inst) }); err != nil {
			t.Fatal(err)
		}
		for n, c := range []struct{ dcgm, freed int }{{0, 0}, {10, 0}, {20, 1}, {20, 1}, {10, 2}, {0, 2}, {20, 3}, {0, 4}} {
			if err := s.Checked(t.Context(), inst.ID, agentapi.Health{DCGM: &agentapi.DCGMHealth{OverallHealth: c.dcgm}}); err != nil || freed != c.freed {
				t.Errorf("check %d with %d: the queue was woken %d times, want %d (%v)", n, c.dcgm, freed, c.freed, err)
			}
		}
	})
}

// So it is when it does not answer, or ends and is room for another.
func TestAnnounceWakesTheQueue(t *testing.T) {
	idle := Instance{Status: api.InstanceIdle}
	for name, c := range map[string]struct {
		was, is func(i *Instance)
		freed   bool
	}{
		"nothing":          {nil, nil, false},
		"does not answer":  {nil, func(i *Instance) { i.Unreachable = true }, true},
		"answers again":    {func(i *Instance) { i.Unreachable = true }, nil, true},
		"lacks GPUs":       {nil, func(i *Instance) { i.Data.LostGPUs = 1 }, true},
		"lacks more GPUs":  {func(i *Instance) { i.Data.LostGPUs = 1 }, func(i *Instance) { i.Data.LostGPUs = 2 }, false},
		"ends":             {nil, func(i *Instance) { i.Status = api.InstanceTerminating }, true},
		"has ended":        {func(i *Instance) { i.Status = api.InstanceTerminating }, func(i *Instance) { i.Status, i.Deleted = api.InstanceTerminated, true }, false},
		"never came to be": {func(i *Instance) { i.Status = api.InstancePending }, func(i *Instance) { i.Status = api.InstanceTerminated }, true},
		"is busy":          {nil, func(i *Instance) { i.Status = api.InstanceBusy }, false},
	} {
		t.Run(name, func(t *testing.T) {
			freed := false
			s := &Service{Config: Config{Log: slog.New(slog.DiscardHandler), Freed: func(string) { freed = true }, FleetChanged: func(string) {}}}
			was, is := idle, idle
			if c.was != nil {
				c.was(&was)
			}
			if c.is != nil {
				c.is(&is)
			}
			if s.announce(was, Decision{Instance: is}); freed != c.freed {
				t.Errorf("the queue is woken: %v, want %v", freed, c.freed)
			}
		})
	}
}

func withGPUs(s Snapshot, vendor string, n int) Snapshot {
	r := &s.Instance.Data.Provisioning.InstanceType.Resources
	r.Gpus = slices.Repeat([]api.Gpu{{Name: "x", Vendor: api.AcceleratorVendor(vendor)}}, n)
	return s
}

// Without some of its GPUs an instance gets no jobs; those that it has go on, and each change is told once.
func TestStepLosesGPUs(t *testing.T) {
	const broken = "nvidia devices are there, but its tool lists none"
	for name, s := range map[string]Snapshot{
		"host of the user":   withGPUs(sshHost(api.InstanceBusy), "nvidia", 2),
		"machine of a cloud": withGPUs(paid(api.InstanceBusy), "nvidia", 2),
	} {
		t.Run(name, func(t *testing.T) {
			s.Instance.Assignments = []Assignment{{JobID: "j", Blocks: 1}}
			for _, c := range []struct {
				gpus     int
				warnings []string
				health   api.HealthStatus // of those that DCGM sees
				lack     string
				events   []string
			}{
				{2, nil, "", "", nil},
				{0, []string{broken}, "", "0 of 2 GPUs are there: " + broken, []string{"Instance health changed HEALTHY -> FAILURE. 0 of 2 GPUs are there: " + broken}},
				{0, []string{"another"}, "", "0 of 2 GPUs are there: another", nil},
				{1, nil, "", "1 of 2 GPUs are there", []string{"Instance health is still FAILURE. 1 of 2 GPUs are there"}},
				{2, nil, "", "", []string{"Instance health changed FAILURE -> HEALTHY. All GPUs are there again"}},
				{3, nil, "", "", nil},
				{1, nil, api.Warning, "1 of 2 GPUs are there", []string{"Instance health changed WARNING -> FAILURE. 1 of 2 GPUs are there"}},
				{2, nil, api.Failure, "", []string{"Instance health is still FAILURE. All GPUs are there again"}},
			} {
				s.Instance.Data.Health = c.health
				was := s.Instance.Well()
				s.Link.Info = &agentapi.HostInfo{Runtime: "docker", GPUs: make([]agentapi.GPU, c.gpus), Warnings: c.warnings}
				d := Step(at(0), s)
				s.Instance = d.Instance
				if got := d.Instance.Lack(); got != c.lack || !slices.Equal(d.Events, c.events) || d.Instance.Status != api.InstanceBusy {
					t.Errorf("with %d GPUs: %q, events %q, %s; want %q, %q", c.gpus, got, d.Events, d.Instance.Status, c.lack, c.events)
				}
				well := c.lack == "" && c.health != api.Failure
				if d.Instance.Well() != well || d.Freed != (well && !was) {
					t.Errorf("with %d GPUs and the health %q it is well: %v, freed: %v", c.gpus, c.health, d.Instance.Well(), d.Freed)
				}
				if again := Step(at(0), s); again.Changed || len(again.Events) > 0 {
					t.Errorf("with %d GPUs it does not settle: %q", c.gpus, again.Events)
				}
			}
		})
	}
}

// A host that is added while what is left of ended tasks holds some of its GPUs has all of them, and gets jobs when they
// are free.
func TestAddWhileGPUsAreHeld(t *testing.T) {
	const held = "GPUs are held by what is left of tasks that have ended: t"
	gpu := agentapi.GPU{ID: "a", Name: "NVIDIA H100 80GB HBM3", MemoryMiB: 81559, Driver: "550.1"}
	for name, c := range map[string]struct {
		free, held int
		warnings   []string
		lack       string
		events     []string
	}{
		"none": {free: 2},
		"one": {1, 1, []string{"1 of 2 " + held}, "1 of 2 GPUs are there: 1 of 2 " + held,
			[]string{"Instance health changed HEALTHY -> FAILURE. 1 of 2 GPUs are there: 1 of 2 " + held}},
		"all": {0, 2, []string{"2 of 2 " + held}, "0 of 2 GPUs are there: 2 of 2 " + held,
			[]string{"Instance health changed HEALTHY -> FAILURE. 0 of 2 GPUs are there: 2 of 2 " + held}},
	} {
		info := agentapi.HostInfo{Runtime: "docker", CPUs: 8, GPUVendor: "nvidia", Warnings: c.warnings,
			GPUs: slices.Repeat([]agentapi.GPU{gpu}, c.free), HeldGPUs: slices.Repeat([]agentapi.GPU{gpu}, c.held)}
		s := sshHost(api.InstancePending)
		s.Instance.Blocks = 2
		jpd, err := describeSSH(*s.Instance.Data.Remote, info)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := splitBlocks(0, true, jpd.InstanceType.Resources); n != 2 || err != nil || jpd.GPUDriver == nil || jpd.GPUDriver.Version != "550.1" {
			t.Errorf("%s: %d blocks, the driver %v, %v", name, n, jpd.GPUDriver, err)
		}
		d := Decision{Instance: s.Instance}
		d.add(at(0), jpd, host.Onboarded{Info: info})
		if got := d.Events[min(1, len(d.Events)):]; d.Instance.Lack() != c.lack || d.Instance.Well() != (c.lack == "") || !slices.Equal(got, c.events) {
			t.Errorf("%s: %q, events %q, want %q, %q", name, d.Instance.Lack(), got, c.lack, c.events)
		}
		s.Instance = d.Instance
		s.Link.Info = &info
		if d := Step(at(0), s); len(d.Events) > 0 {
			t.Errorf("%s: it is told again: %q", name, d.Events)
		}
		s.Link.Info = &agentapi.HostInfo{Runtime: "docker", GPUs: make([]agentapi.GPU, 2)}
		if got := Step(at(0), s).Instance; got.wantGPUs() != 2 || !got.Well() || got.Data.LostGPUs != 0 {
			t.Errorf("%s: %d GPUs when they are free, %d of them lost", name, got.wantGPUs(), got.Data.LostGPUs)
		}
	}
}

// What agents do not list is not missing.
func TestStepMissesNoGPUs(t *testing.T) {
	for name, c := range map[string]struct {
		s       Snapshot
		runtime string
		held    int
		lost    int
	}{
		"TPUs":                  {withGPUs(paid(api.InstanceIdle), "google", 1), "docker", 0, 0},
		"a pod":                 {withGPUs(paid(api.InstanceIdle), "amd", 1), "process", 0, 0},
		"a host without engine": {withGPUs(sshHost(api.InstanceIdle), "amd", 1), "process", 0, 1},
		"a pod with a tool":     {withGPUs(paid(api.InstanceIdle), "amd", 2), "process", 1, 2},
	} {
		c.s.Link.Info = &agentapi.HostInfo{Runtime: c.runtime, HeldGPUs: make([]agentapi.GPU, c.held)}
		if d := Step(at(0), c.s); d.Instance.Data.LostGPUs != c.lost {
			t.Errorf("%s: %d are missed, want %d", name, d.Instance.Data.LostGPUs, c.lost)
		}
	}
}

// A job that has an instance to itself is to get all accelerators, also those that are not there at the moment.
func TestAllGPUs(t *testing.T) {
	for name, c := range map[string]struct {
		vendor         string
		made, listed   int
		runtime        string
		ssh, noHostYet bool
		want           int
	}{
		"all there":                {vendor: "nvidia", made: 8, listed: 8, want: 8},
		"one is lost":              {vendor: "nvidia", made: 8, listed: 7, want: 8},
		"all are lost":             {vendor: "nvidia", made: 8, want: 8},
		"one came later":           {vendor: "nvidia", made: 7, listed: 8, want: 8},
		"two in each card":         {vendor: "amd", made: 4, listed: 8, want: 8},
		"none":                     {want: -1},
		"TPUs, which agents lack":  {vendor: "google", made: 4, want: -1},
		"a container with a tool":  {vendor: "nvidia", made: 2, listed: 2, runtime: "process", want: 2},
		"a container without one":  {vendor: "nvidia", made: 2, runtime: "process", want: -1},
		"a host without an engine": {vendor: "nvidia", made: 2, runtime: "process", ssh: true, want: 2},
		"an agent yet to answer":   {vendor: "nvidia", made: 2, noHostYet: true, want: -1},
	} {
		inst := Instance{Data: Data{Provisioning: &api.JobProvisioningData{}}}
		for range c.made {
			r := &inst.Data.Provisioning.InstanceType.Resources
			r.Gpus = append(r.Gpus, api.Gpu{Vendor: api.AcceleratorVendor(c.vendor)})
		}
		if c.ssh {
			inst.Data.Remote = &RemoteHost{}
		}
		if !c.noHostYet {
			inst.Data.Host = &agentapi.HostInfo{Runtime: c.runtime, GPUs: make([]agentapi.GPU, c.listed)}
		}
		if got := inst.AllGPUs(); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// What an agent warns of is told also while it lists all accelerators: their driver may hang.
func TestLack(t *testing.T) {
	const hangs = "nvidia devices are there, but its tool does not work: nvidia-smi cannot be killed"
	for name, c := range map[string]struct {
		made, lost int
		host       *agentapi.HostInfo
		want       string
	}{
		"all is well":            {2, 0, &agentapi.HostInfo{}, ""},
		"one is lost":            {2, 1, &agentapi.HostInfo{}, "1 of 2 GPUs are there"},
		"with a reason":          {2, 2, &agentapi.HostInfo{Warnings: []string{"a", "b"}}, "0 of 2 GPUs are there: a; b"},
		"a driver that hangs":    {2, 0, &agentapi.HostInfo{Warnings: []string{hangs}}, "GPUs may not work: " + hangs},
		"none wanted":            {0, 0, &agentapi.HostInfo{Warnings: []string{hangs}}, ""},
		"a host without engine":  {2, 0, &agentapi.HostInfo{Warnings: []string{"no engine"}, Runtime: "process"}, ""},
		"an agent yet to answer": {2, 0, nil, ""},
	} {
		inst := Instance{Data: Data{Provisioning: &api.JobProvisioningData{}, Host: c.host, LostGPUs: c.lost}}
		inst.Data.Provisioning.InstanceType.Resources.Gpus = make([]api.Gpu, c.made)
		if got := inst.Lack(); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
