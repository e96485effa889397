package server

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/backend"
	"dstack/internal/backend/fake"
	"dstack/internal/ledger"
	"dstack/internal/offer"
	"dstack/internal/store"
)

// market is a provider that says what it offers, or that it does not say, and makes nothing.
type market struct {
	backend.Backend
	offers []offer.Offer
	err    error
}

func (m market) Offers(context.Context, offer.Query) ([]offer.Offer, error) { return m.offers, m.err }

// sells is an offer of a machine with GPUs.
func sells(name, region string, price float64, gpus int) offer.Offer {
	return offer.Offer{
		Backend: name, Region: region, Instance: "big", Price: price, Availability: offer.Available,
		Resources: offer.Resources{CPUs: 64, MemoryMiB: 1 << 20, DiskMiB: 1 << 20, Arch: "x86", GPUs: slices.Repeat([]offer.GPU{{Name: "H100", MemoryMiB: 80 << 10, Vendor: "nvidia"}}, gpus)},
	}
}

// marketServer is a server at which the project main has backends.
func marketServer(t *testing.T, markets map[string]market) *Server {
	t.Helper()
	file := "projects:\n  - name: main\n    backends:\n"
	var types []backend.Type
	for name, m := range markets {
		file += "      - type: " + name + "\n"
		types = append(types, backend.Define(name, "", func(context.Context, struct{}, backend.Deps) (backend.Backend, error) { return m, nil }))
	}
	return serverWith(t, file, types...)
}

// serverWith is a server with a configuration and these kinds of backends.
func serverWith(t *testing.T, file string, types ...backend.Type) *Server {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.yml"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := New(context.Background(), Config{Dir: dir, Token: adminToken, Backends: types, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.shut(t) })
	return s
}

// plan asks where a task with 8 H100 could run.
func (s *Server) plan(t *testing.T, more string, header ...string) api.RunPlan {
	t.Helper()
	body := `{"for_offers_only": true, "run_spec": {"run_name": "plan", "ssh_key_pub": "x", "configuration": {"type": "task", "commands": ["a"], "resources": {"gpu": "H100:8"}` + more + `}}}`
	a := s.call(t, "POST", "/api/project/main/runs/get_plan", adminToken, []byte(body), header...)
	var plan api.RunPlan
	if err := json.Unmarshal(a.Body, &plan); err != nil || a.Status != 200 {
		t.Fatalf("%d %s, %v", a.Status, short(a.Body), err)
	}
	return plan
}

func TestPlanSaysWhyNot(t *testing.T) {
	s := marketServer(t, map[string]market{
		"vultr":  {offers: []offer.Offer{sells("vultr", "ewr", 20, 8), sells("vultr", "ams", 30, 8), sells("vultr", "ewr", 3, 1), sells("vultr", "ewr", 6, 2)}},
		"lambda": {err: errors.New("the secret is s3cr3t")},
	})
	plan := s.plan(t, `, "max_price": 10`)
	why := plan.JobPlans[0].WhyNot
	if why == nil || why.Considered != 4 || why.Fit != 0 || len(why.Excluded) != 2 || !cmp.Equal(why.Excluded[0], api.Exclusion{Requirement: "max_price", Excludes: 2, Alone: 2, From: new(20.0)}) {
		t.Errorf("why not: %+v", why)
	}
	want := []api.BackendProblem{{Backend: "lambda", Message: "cannot say what it offers; its offers are missing"}}
	if !slices.Equal(plan.BackendProblems, want) {
		t.Errorf("problems of backends: %+v", plan.BackendProblems)
	}
	plan = s.plan(t, `, "max_price": 10`, "X-API-Version", "0.22.5")
	if plan.JobPlans[0].WhyNot != nil || plan.BackendProblems != nil || plan.LoweredOffers != nil {
		t.Errorf("a published client is told %+v, %+v", plan.JobPlans[0].WhyNot, plan.BackendProblems)
	}
	if plan := s.plan(t, `, "backends": ["vultr"]`); plan.BackendProblems != nil {
		t.Errorf("who excludes a backend hears of it: %+v", plan.BackendProblems)
	}
	if plan := s.plan(t, `, "reservation": "r"`); len(plan.JobPlans[0].Offers) != 0 || plan.JobPlans[0].WhyNot.Excluded[0].Requirement != "reservation" {
		t.Errorf("backends without reservations offer %+v", plan.JobPlans[0])
	}
}

// A plan in a reservation has what there is room for, and says why there is no more.
func TestPlanInReservation(t *testing.T) {
	cloud := fake.New(fake.Config{Name: "vultr", Offers: []offer.Offer{sells("vultr", "ewr", 20, 8), sells("vultr", "ams", 30, 8)}})
	cloud.Reserve("r", offer.Reserved{Region: "ams", Zone: "z", Instance: "big", Left: 1})
	cloud.Reserve("full", offer.Reserved{Region: "ams", Zone: "z", Instance: "big"})
	kind := backend.Define("vultr", "", func(context.Context, struct{}, backend.Deps) (backend.Backend, error) { return cloud, nil })
	s := serverWith(t, "projects:\n  - name: main\n    backends:\n      - type: vultr\n", kind)
	jp := s.plan(t, `, "reservation": "r"`).JobPlans[0]
	if len(jp.Offers) != 1 || jp.Offers[0].Region != "ams" || !slices.Equal(jp.Offers[0].AvailabilityZones, []string{"z"}) || jp.WhyNot.Excluded[0].Requirement != "reservation" || jp.WhyNot.Excluded[0].Excludes != 1 {
		t.Errorf("in a reservation: %+v, %+v", jp.Offers, jp.WhyNot)
	}
	for name, want := range map[string]string{"full": "Reservation 'full' is full", "q": "No backend of the project has offers in a reservation 'q'"} {
		if jp := s.plan(t, `, "reservation": "`+name+`"`).JobPlans[0]; len(jp.Offers) != 0 || !slices.Contains(jp.WhyNot.Reasons, want) {
			t.Errorf("%d offers in %s, %+v", len(jp.Offers), name, jp.WhyNot)
		}
	}
	if jp := s.plan(t, "").JobPlans[0]; len(jp.Offers) != 2 {
		t.Errorf("without a reservation: %+v", jp.Offers)
	}
	var fleet api.FleetPlan
	s.ask(t, "fleets/get_plan", `{"spec": {"configuration": {"type": "fleet", "nodes": 1, "reservation": "r"}, "profile": {}}}`, &fleet)
	if len(fleet.Offers) != 1 || fleet.Offers[0].Region != "ams" {
		t.Errorf("a fleet in a reservation: %+v", fleet.Offers)
	}
}

// What was refused lately is offered after what costs more, whichever server asked for it.
func TestPlanRemembersFailures(t *testing.T) {
	s := marketServer(t, map[string]market{"vultr": {offers: []offer.Offer{sells("vultr", "ewr", 20, 8), sells("vultr", "ams", 30, 8)}}})
	doc := ledger.Doc{Outcome: ledger.NoCapacity, Create: &backend.CreateRequest{Offer: sells("vultr", "ewr", 20, 8)}}
	err := s.db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.ExecContext(t.Context(), `INSERT INTO intent (id, shard, version, kind, backend, region, project_id, owner_kind, owner_id, state, wanted, idle, price, created_at, doc)
			VALUES ('i', 0, 1, 'instance', 'vultr', 'ewr', 'other', '', '', 'gone', FALSE, TRUE, 20, $1, $2)`, store.Micros(time.Now()), store.JSON(&doc))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var regions []string
	plan := s.plan(t, "")
	for _, o := range plan.JobPlans[0].Offers {
		regions = append(regions, o.Region)
	}
	if want := []string{"ams", "ewr"}; !slices.Equal(regions, want) {
		t.Errorf("offers in the order %v, want %v", regions, want)
	}
	var fleet api.FleetPlan
	s.ask(t, "fleets/get_plan", `{"spec": {"configuration": {"type": "fleet", "nodes": 1}, "profile": {}}}`, &fleet)
	for what, list := range map[string][]api.LoweredOffer{"a run": plan.LoweredOffers, "a fleet": fleet.LoweredOffers} {
		if len(list) != 1 || list[0].Region != "ewr" || list[0].Instance != "big" || list[0].Penalty < 0.99 || list[0].Penalty > 1 {
			t.Errorf("the plan of %s says that these are lowered: %+v", what, list)
		}
	}
}

// ask posts a body to a path of the project main and reads the answer.
func (s *Server) ask(t *testing.T, path, body string, answer any, header ...string) {
	t.Helper()
	a := s.call(t, "POST", "/api/project/main/"+path, adminToken, []byte(body), header...)
	if err := json.Unmarshal(a.Body, answer); err != nil || a.Status != 200 {
		t.Fatalf("%s: %d %s, %v", path, a.Status, short(a.Body), err)
	}
}

// Plans of fleets and groups of GPUs say the same as plans of runs, but not to published clients.
func TestFleetPlanAndGroupsSayWhyNot(t *testing.T) {
	s := marketServer(t, map[string]market{
		"vultr":  {offers: []offer.Offer{sells("vultr", "ewr", 20, 8), sells("vultr", "ams", 30, 8), sells("vultr", "ewr", 3, 1)}},
		"lambda": {err: errors.New("down")},
	})
	const (
		fleetSpec = `{"spec": {"configuration": {"type": "fleet", "nodes": 1, "resources": {"gpu": "H100:8"}, "max_price": 10}, "profile": {}}}`
		runSpec   = `{"group_by": ["backend"], "run_spec": {"run_name": "plan", "ssh_key_pub": "x", "configuration": {"type": "task", "commands": ["a"], "resources": {"gpu": "H100:8"}, "max_price": 10}}}`
	)
	want := &api.WhyNot{Considered: 3, Excluded: []api.Exclusion{
		{Requirement: "max_price", Excludes: 2, Alone: 2, From: new(20.0)}, {Requirement: "gpu.count", Excludes: 1, Alone: 1, From: new(3.0)},
	}}
	problems := []api.BackendProblem{{Backend: "lambda", Message: "cannot say what it offers; its offers are missing"}}
	check := func(what string, why *api.WhyNot, notes api.PlanNotes) {
		t.Helper()
		if diff := cmp.Diff(want, why); diff != "" {
			t.Errorf("%s: why not (-want +got):\n%s", what, diff)
		}
		if diff := cmp.Diff(problems, notes.BackendProblems); diff != "" {
			t.Errorf("%s: problems (-want +got):\n%s", what, diff)
		}
	}
	var fleet api.FleetPlan
	s.ask(t, "fleets/get_plan", fleetSpec, &fleet)
	check("fleet", fleet.WhyNot, fleet.PlanNotes)
	var gpus api.ListGpusResponse
	s.ask(t, "gpus/list", runSpec, &gpus)
	check("groups", gpus.WhyNot, gpus.PlanNotes)

	want, problems = nil, nil
	fleet, gpus = api.FleetPlan{}, api.ListGpusResponse{}
	s.ask(t, "fleets/get_plan", fleetSpec, &fleet, "X-API-Version", "0.22.5")
	check("fleet, published", fleet.WhyNot, fleet.PlanNotes)
	s.ask(t, "gpus/list", runSpec, &gpus, "X-API-Version", "0.22.5")
	check("groups, published", gpus.WhyNot, gpus.PlanNotes)
}

// Machines without GPUs are in no group, and do not hide why there is none.
func TestGroupsWithoutGPUsSayWhyNot(t *testing.T) {
	bare := sells("vultr", "ewr", 1, 0)
	s := marketServer(t, map[string]market{"vultr": {offers: []offer.Offer{bare, bare, bare, sells("vultr", "ewr", 20, 8)}}})
	var gpus api.ListGpusResponse
	s.ask(t, "gpus/list", `{"group_by": [], "run_spec": {"run_name": "plan", "ssh_key_pub": "x", "configuration": {"type": "task", "commands": ["a"], "max_price": 10}}}`, &gpus)
	want := &api.WhyNot{Considered: 4, Excluded: []api.Exclusion{{Requirement: "max_price", Excludes: 1, Alone: 1, From: new(20.0)}, {Requirement: "gpu", Excludes: 3}}}
	if diff := cmp.Diff(want, gpus.WhyNot); diff != "" || len(gpus.Gpus) != 0 {
		t.Errorf("groups %+v, why not (-want +got):\n%s", gpus.Gpus, diff)
	}
	if a := s.call(t, "POST", "/api/project/main/gpus/list", adminToken, []byte(`{"group_by": [], "run_spec": {"run_name": "plan"}}`)); a.Status != 422 {
		t.Errorf("without a configuration: %d %s", a.Status, short(a.Body))
	}
}

// What a fleet says is told as the fleet's.
func TestPlanNamesTheFleet(t *testing.T) {
	s := marketServer(t, map[string]market{"vultr": {offers: []offer.Offer{sells("vultr", "ewr", 20, 8), sells("vultr", "ams", 30, 8)}}})
	var fleet api.Fleet
	s.ask(t, "fleets/apply", `{"plan": {"spec": {"configuration": {"type": "fleet", "name": "here", "nodes": "0..2", "regions": ["jp"]}, "profile": {}}}, "force": false}`, &fleet)
	plan := s.plan(t, "")
	if plan.JobPlans[0].WhyNot != nil {
		t.Errorf("for offers alone: %+v", plan.JobPlans[0].WhyNot)
	}
	body := `{"run_spec": {"run_name": "plan", "ssh_key_pub": "x", "configuration": {"type": "task", "commands": ["a"], "resources": {"gpu": "H100:8"}}}}`
	s.ask(t, "runs/get_plan", body, &plan)
	want := &api.WhyNot{Considered: 2, Reasons: []string{"No offers matching the run requirements in fleet 'here'"},
		Excluded: []api.Exclusion{{Requirement: "regions", Fleet: "here", Excludes: 2, Alone: 2, From: new(20.0)}}}
	if diff := cmp.Diff(want, plan.JobPlans[0].WhyNot); diff != "" {
		t.Errorf("why not (-want +got):\n%s", diff)
	}
}

// Every way in which a run can find no place is told, with what would help.
func TestPlanSaysWhatIsInTheWay(t *testing.T) {
	away := sells("vultr", "icn", 10, 8)
	away.Availability = offer.NoQuota
	s := marketServer(t, map[string]market{"vultr": {offers: []offer.Offer{sells("vultr", "ewr", 20, 8), sells("vultr", "ams", 30, 8), away}}})
	for _, fleet := range []string{`"name": "full", "nodes": "0..0"`, `"name": "spot", "nodes": "0..", "spot_policy": "spot"`, `"name": "cluster", "nodes": "0..", "placement": "cluster"`} {
		s.ask(t, "fleets/apply", `{"plan": {"spec": {"configuration": {"type": "fleet", `+fleet+`}, "profile": {}}}, "force": false}`, new(api.Fleet))
	}
	s.plan(t, "") // backends that are of no use to a run are not waited for, and must have said what they have
	quota := []api.Unavailable{{Availability: api.NoQuota, Count: 1}}
	const noOffers = "No offers matching the run requirements in fleet "
	for name, tt := range map[string]struct {
		run, more string
		want      *api.WhyNot
	}{
		"what is away is told apart": {`"max_price": 25`, `, "for_offers_only": true`, &api.WhyNot{Considered: 3, Fit: 1, Unavailable: quota, Excluded: []api.Exclusion{
			{Requirement: "max_price", Excludes: 1, Alone: 1, From: new(30.0)},
		}}},
		"no way out that is away": {`"max_price": 5`, `, "for_offers_only": true`, &api.WhyNot{Considered: 3, Excluded: []api.Exclusion{
			{Requirement: "max_price", Excludes: 3, Alone: 2, From: new(20.0), Unavailable: 1},
		}}},
		"a full fleet": {`"fleets": ["full"]`, "", &api.WhyNot{Considered: 3, Reasons: []string{"Fleet is at capacity"}, Excluded: []api.Exclusion{
			{Requirement: "nodes", Fleet: "full", Excludes: 3, Alone: 2, From: new(20.0), Unavailable: 1},
			{Requirement: "fleets", Excludes: 3},
		}}},
		"a fleet that asks for the contrary": {`"fleets": ["spot"]`, "", &api.WhyNot{Considered: 3, Reasons: []string{noOffers + "'spot'", "The run and fleet 'spot' exclude each other: `spot_policy`"}, Excluded: []api.Exclusion{
			{Requirement: "spot_policy", Fleet: "spot", Excludes: 3, Alone: 2, From: new(20.0), Unavailable: 1},
			{Requirement: "fleets", Excludes: 3},
		}}},
		"several nodes where backends make no clusters": {`"nodes": 2, "fleets": ["cluster"]`, "", &api.WhyNot{Considered: 3, Reasons: []string{noOffers + "'cluster'", "None of the project's backends connects its instances to clusters"}, Excluded: []api.Exclusion{
			{Requirement: "nodes", Excludes: 3}, {Requirement: "fleets", Excludes: 3}, {Requirement: "placement", Fleet: "cluster", Excludes: 3},
		}}},
		"only what exists": {`"creation_policy": "reuse"`, `, "for_offers_only": true`, &api.WhyNot{Considered: 3, Excluded: []api.Exclusion{
			{Requirement: "creation_policy", Excludes: 3, Alone: 2, From: new(20.0), Unavailable: 1},
		}}},
		"a fleet that there is not": {`"fleets": ["nosuch"]`, `, "for_offers_only": true`, &api.WhyNot{Considered: 3, Reasons: []string{"There is no fleet 'nosuch'; the project has 'full', 'spot' and 'cluster'"}, Excluded: []api.Exclusion{
			{Requirement: "fleets", Excludes: 3, Alone: 2, From: new(20.0), Unavailable: 1},
		}}},
	} {
		t.Run(name, func(t *testing.T) {
			var plan api.RunPlan
			s.ask(t, "runs/get_plan", `{"run_spec": {"run_name": "plan", "ssh_key_pub": "x", "configuration": {"type": "task", "commands": ["a"], "resources": {"gpu": "H100:8"}, `+tt.run+`}}`+tt.more+`}`, &plan)
			why := plan.JobPlans[0].WhyNot
			if diff := cmp.Diff(tt.want, why); diff != "" {
				t.Errorf("why not (-want +got):\n%s", diff)
			}
		})
	}

	empty := marketServer(t, nil)
	if why := empty.plan(t, "").JobPlans[0].WhyNot; why == nil || !slices.Equal(why.Reasons, []string{"The project has no backends that could create instances"}) {
		t.Errorf("without a backend: %+v", why)
	}
}

// Old clients refuse groups with the price of whole machines, which they do not know.
func TestGroupsOfOldClients(t *testing.T) {
	s := marketServer(t, map[string]market{"vultr": {offers: []offer.Offer{sells("vultr", "ewr", 20, 8)}}})
	for client, want := range map[string]string{
		"0.19.40": `null`, "0.20.29": `null`, "0.22.5": `{"max":20,"min":20}`, "latest": `{"max":20,"min":20}`,
	} {
		var answer struct{ Gpus []map[string]any }
		s.ask(t, "gpus/list", `{"group_by": [], "run_spec": {"run_name": "plan", "ssh_key_pub": "x", "configuration": {"type": "task", "commands": ["a"], "resources": {"gpu": "H100"}}}}`,
			&answer, "X-API-Version", client)
		if len(answer.Gpus) != 1 {
			t.Fatalf("client %s: groups %v, want one", client, answer.Gpus)
		}
		if got := string(marshal(answer.Gpus[0]["offer_price"])); got != want {
			t.Errorf("client %s: offer_price %s, want %s", client, got, want)
		}
	}
}
