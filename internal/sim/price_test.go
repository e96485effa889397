package sim

import (
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/api"
	"dstack/internal/backend"
	"dstack/internal/backend/fake"
	"dstack/internal/offer"
)

// raised is a price list on which all becomes a hundred times as dear.
type raised struct{ atomic.Bool }

// Offers implements backend.Prices.
func (r *raised) Offers(string, offer.Query) ([]offer.Offer, error) {
	list := fake.SomeOffers()
	for i := range list {
		if r.Load() {
			list[i].Price *= 100
		}
	}
	return list, nil
}

// TestFailingClouds has clouds fail to say what they offer, after nobody asked them for long. A run that
// may not wait for capacity waits for them, and is told of them when it is given up.
func TestFailingClouds(t *testing.T) {
	for name, tt := range map[string]struct {
		fails time.Duration
		end   string
		told  bool
	}{
		"mended soon":  {30 * time.Second, "done_by_runner", false},
		"not mended":   {time.Hour, noCapacity, true},
		"mended later": {deadlineOfOffers + 30*time.Second, noCapacity, true},
	} {
		t.Run(name, func(t *testing.T) {
			tp := newTemplate(t)
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, tp)
				list := &unread{}
				for _, name := range cloudNames {
					w.addCloud(fake.Config{Name: name, Prices: list, Latency: time.Second})
				}
				w.start()
				defer w.end()
				w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 1}})
				time.Sleep(time.Hour)
				list.Store(true)
				began := time.Now()
				w.applyRun("one", object{"type": "task", "commands": []string{"work"}}, script{Run: time.Second, Lines: 1})
				time.Sleep(20 * time.Second)
				for _, j := range w.checks.now().jobs {
					if j.reason != "" {
						t.Errorf("after 20 s the job's end is %q, want none", j.reason)
					}
				}
				time.Sleep(time.Until(began.Add(tt.fails)))
				list.Store(false)
				time.Sleep(4 * time.Minute)
				for _, j := range w.checks.now().jobs {
					if j.reason != tt.end {
						t.Errorf("the job's end is %q, want %q", j.reason, tt.end)
					}
				}
				var run struct {
					Jobs []struct {
						Submissions []struct {
							Message string `json:"termination_reason_message"`
						} `json:"job_submissions"`
					}
				}
				w.call("project/main/runs/get", object{"run_name": "one"}, &run)
				why := run.Jobs[0].Submissions[0].Message
				if told := strings.Contains(why, "Backend '"+cloudNames[0]+"' cannot say what it offers"); told != tt.told {
					t.Errorf("the end is told as %q; that of a failing backend: %v, want %v", why, told, tt.told)
				}
			})
		})
	}
}

// TestCloudsThatAreOfNoUse has a cloud fail, or say nothing, that a run or its fleet excludes: the run has
// its machine, or hears that there is none, as soon as the others have answered. One that could use the
// cloud waits for it.
func TestCloudsThatAreOfNoUse(t *testing.T) {
	well, ill := cloudNames[0], cloudNames[1]
	for name, tt := range map[string]struct {
		fleet, run object
		hangs      bool
		end        string // of the job, within seconds; "" is none yet
	}{
		"excluded by the run":               {object{}, object{"backends": []string{well}}, false, "done_by_runner"},
		"excluded by the fleet":             {object{"backends": []string{well}}, object{}, false, "done_by_runner"},
		"silent, excluded by the run":       {object{}, object{"backends": []string{well}}, true, "done_by_runner"},
		"silent, excluded by the fleet":     {object{"backends": []string{well}}, object{}, true, "done_by_runner"},
		"nothing fits":                      {object{}, object{"backends": []string{well}, "max_price": 0.01}, false, noCapacity},
		"nothing fits, silent":              {object{}, object{"backends": []string{well}, "max_price": 0.01}, true, noCapacity},
		"nothing fits, but it is of use":    {object{}, object{"max_price": 0.01}, false, ""},
		"nothing fits, silent but of use":   {object{}, object{"max_price": 0.01}, true, ""},
		"it is all that the run may use":    {object{}, object{"backends": []string{ill}}, true, ""},
		"run and fleet exclude all of them": {object{"backends": []string{well}}, object{"backends": []string{ill}}, true, noCapacity},
	} {
		t.Run(name, func(t *testing.T) {
			tp := newTemplate(t)
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, tp)
				list := &unread{}
				for _, name := range cloudNames {
					c := fake.Config{Name: name, Offers: fake.SomeOffers(), Latency: 500 * time.Millisecond, Boot: time.Second}
					if name == ill {
						c.Prices = list
					}
					w.addCloud(c)
				}
				w.start()
				defer w.end()
				fleet := object{"nodes": object{"min": 0, "max": 1}}
				maps.Copy(fleet, tt.fleet)
				w.applyFleet("nodes", fleet)
				time.Sleep(time.Hour)
				if tt.hangs {
					w.clouds[ill].Inject(fake.Fault{Op: "Offers", Crash: func() {}})
				}
				list.Store(true)
				task := object{"type": "task", "commands": []string{"work"}}
				maps.Copy(task, tt.run)
				w.applyRun("one", task, script{Run: time.Second, Lines: 1})
				time.Sleep(9 * time.Second) // who needs an answer of a cloud waits for ten, before anything else
				s := w.checks.now()
				if len(s.jobs) != 1 {
					t.Fatalf("jobs %v, want one", s.jobs)
				}
				for _, j := range s.jobs {
					if j.reason != tt.end {
						t.Errorf("the job's end is %q, want %q", j.reason, tt.end)
					}
				}
				var run api.Run
				w.call("project/main/runs/get", object{"run_name": "one"}, &run)
				if m := run.LatestJobSubmission.TerminationReasonMessage; tt.end == noCapacity && (m == nil || strings.Contains(*m, ill)) {
					t.Errorf("the run's end tells of a cloud that is of no use to it: %v", m)
				}
			})
		})
	}
}

// deadlineOfOffers is for how long a backend that fails is hoped for.
const deadlineOfOffers = 2 * time.Minute

// unread is a price list that cannot be had while it is true.
type unread struct{ atomic.Bool }

// Offers implements backend.Prices.
func (u *unread) Offers(string, offer.Query) ([]offer.Offer, error) {
	if u.Load() {
		return nil, fake.ErrReset
	}
	return fake.SomeOffers(), nil
}

// TestOldPrices has clouds raise their prices, or fall silent, while nobody uses the server. A run
// with a limit is not placed on what they said before.
func TestOldPrices(t *testing.T) {
	for name, tt := range map[string]struct {
		raise, silent bool
		pause         time.Duration
		soon, later   string // what has become of the job after some seconds, and some minutes
	}{
		"the same price":          {pause: 64 * time.Second, soon: "done_by_runner", later: "done_by_runner"},
		"a price that was raised": {raise: true, pause: 64 * time.Second, soon: noCapacity, later: noCapacity},
		"after an hour":           {raise: true, pause: time.Hour, soon: noCapacity, later: noCapacity},
		"silent clouds":           {silent: true, pause: time.Hour, soon: "", later: noCapacity},
	} {
		t.Run(name, func(t *testing.T) {
			tp := newTemplate(t)
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, tp)
				prices := &raised{}
				var clouds []*fake.Cloud
				for _, name := range cloudNames {
					clouds = append(clouds, w.addCloud(fake.Config{Name: name, Prices: prices, Latency: time.Second}))
				}
				w.start()
				defer w.end()
				w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 1}})
				time.Sleep(tt.pause)
				prices.Store(tt.raise)
				for _, c := range clouds {
					if tt.silent {
						c.Inject(fake.Fault{Op: "Offers", Crash: func() {}})
					}
				}
				w.applyRun("one", object{"type": "task", "commands": []string{"work"}, "max_price": 1}, script{Run: time.Second, Lines: 1})
				for _, step := range []struct {
					after time.Duration
					want  string
				}{{40 * time.Second, tt.soon}, {4 * time.Minute, tt.later}} {
					time.Sleep(step.after)
					s := w.checks.now()
					if len(s.jobs) != 1 {
						t.Fatalf("jobs %v, want one", s.jobs)
					}
					for _, j := range s.jobs {
						if j.reason != step.want {
							t.Errorf("after %v the job's end is %q, want %q", step.after, j.reason, step.want)
						}
					}
				}
			})
		})
	}
}

// TestPricesRaisedBeforeARepetition has clouds raise their prices while a request waits for their rate
// limit: it is not repeated for a run with a limit, whose end says why.
func TestPricesRaisedBeforeARepetition(t *testing.T) {
	for name, tt := range map[string]struct {
		raise bool
		made  int
		end   string
	}{
		"the same price":          {false, 1, "done_by_runner"},
		"a price that was raised": {true, 0, noCapacity},
	} {
		t.Run(name, func(t *testing.T) {
			tp := newTemplate(t)
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, tp)
				prices := &raised{}
				for _, name := range cloudNames {
					w.addCloud(fake.Config{Name: name, Prices: prices, Latency: time.Second})
				}
				cloud := w.clouds[cloudNames[0]]
				cloud.Inject(fake.Fault{Op: "Create", Nth: 1, Before: &backend.RateLimitedError{After: 90 * time.Second}})
				w.start()
				defer w.end()
				w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 1}, "backends": []string{cloudNames[0]}})
				w.applyRun("one", object{"type": "task", "commands": []string{"work"}, "max_price": 0.5}, script{Run: time.Second, Lines: 1})
				time.Sleep(10 * time.Second)
				if n := cloud.Calls("Create"); n != 1 {
					t.Fatalf("%d requests after ten seconds, want 1", n)
				}
				prices.Store(tt.raise)
				time.Sleep(8 * time.Minute)
				if n := cloud.Calls("Create") - 1; n != tt.made {
					t.Errorf("%d requests after the limit, want %d", n, tt.made)
				}
				for _, j := range w.checks.now().jobs {
					if j.reason != tt.end {
						t.Errorf("the job's end is %q, want %q", j.reason, tt.end)
					}
				}
				var events []struct{ Message string }
				w.call("events/list", object{"limit": 100}, &events)
				told := slices.ContainsFunc(events, func(e struct{ Message string }) bool {
					return strings.Contains(e.Message, "it costs $10 an hour now, more than the max_price of $0.5")
				})
				if told != tt.raise {
					t.Errorf("somebody is told that the price was raised: %v, want %v; %v", told, tt.raise, events)
				}
			})
		})
	}
}

const noCapacity = "failed_to_start_due_to_no_capacity"

// TestOldPricesOfFleets has a fleet want a machine when the clouds fell silent long ago: it waits for
// them instead of buying at an old price, and has one soon after they answer.
func TestOldPricesOfFleets(t *testing.T) {
	tp := newTemplate(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, tp)
		var clouds []*fake.Cloud
		for _, name := range cloudNames {
			clouds = append(clouds, w.addCloud(fake.Config{Name: name, Offers: fake.SomeOffers(), Latency: 30 * time.Second}))
		}
		w.start()
		defer w.end()
		time.Sleep(time.Hour)
		made := func() (n int) {
			for _, c := range clouds {
				n += c.Calls("Create")
			}
			return n
		}
		w.applyFleet("nodes", object{"nodes": 1, "resources": object{"gpu": "H100"}})
		time.Sleep(25 * time.Second)
		s := w.checks.now()
		if len(s.instances) != 1 {
			t.Fatalf("instances %v, want one", s.instances)
		}
		for _, i := range s.instances {
			if i.status != "pending" || i.intent != "" {
				t.Errorf("before the clouds answer, the instance is %s with the intent %q", i.status, i.intent)
			}
		}
		time.Sleep(2 * time.Minute)
		if n := made(); n != 1 {
			t.Errorf("%d machines asked for, want 1", n)
		}
	})
}

// unsteady is a price list of one machine, which may cost a little else every minute.
type unsteady struct{ changes bool }

// Offers implements backend.Prices.
func (u unsteady) Offers(string, offer.Query) ([]offer.Offer, error) {
	gpu := fake.SomeOffers()[1] // for $2.5
	if u.changes {
		gpu.Price -= float64(time.Now().Minute()) / 1000
	}
	return []offer.Offer{gpu}, nil
}

// TestCloudThatChargesMore has a cloud charge more than it lists. A run that waits for a machine within its
// max_price has one now and then, which is given back at once, and not one after the other.
func TestCloudThatChargesMore(t *testing.T) {
	for name, tt := range map[string]struct {
		list unsteady
		most int // machines within three hours
	}{
		"at a price that stays":   {unsteady{}, 2},      // what was told counts for two hours
		"at a price that changes": {unsteady{true}, 12}, // at least for a quarter of an hour
	} {
		t.Run(name, func(t *testing.T) {
			tp := newTemplate(t)
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, tp)
				cloud := w.addCloud(fake.Config{
					Name: cloudNames[0], Prices: tt.list, Latency: time.Second, Boot: time.Minute, Deletion: 10 * time.Second,
					Charges: func(offer.Offer) float64 { return 9 },
				})
				for _, name := range cloudNames[1:] {
					w.addCloud(fake.Config{Name: name})
				}
				w.start()
				defer w.end()
				w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 1}, "resources": object{"gpu": 1}})
				task := object{
					"type": "task", "commands": []string{"work"}, "resources": object{"gpu": 1}, "max_price": 3,
					"retry": object{"on_events": []string{"no-capacity"}, "duration": 4 * 3600},
				}
				if status := w.applyRun("one", task, script{Run: time.Minute, Lines: 1}); status != 200 {
					t.Fatalf("apply: %d", status)
				}
				time.Sleep(3 * time.Hour)
				if n := cloud.Calls("Create"); n < 1 || n > tt.most {
					t.Errorf("%d machines were bought within three hours, want 1 to %d", n, tt.most)
				}
				if left := w.ours(); len(left) != 0 {
					t.Errorf("machines that cost too much: %v", left)
				}
				var run api.Run
				w.call("project/main/runs/get", object{"run_name": "one"}, &run)
				if run.Status.Finished() {
					t.Errorf("the run is %s, want it to wait", run.Status)
				}
			})
		})
	}
}
