package sim

import (
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestStaleAddress has a cloud tell of a new machine that it is where another host is: a host of the user, or the machine
// that it made before, on which a job runs. The job goes on, and the machine is had once it is where the cloud says.
func TestStaleAddress(t *testing.T) {
	for name, stale := range map[string]time.Duration{"for a while": 5 * time.Minute, "for ever": 24 * time.Hour} {
		for place, of := range map[string]string{"of a host": "hosts", "of a machine": "rented"} {
			t.Run(place+" "+name, func(t *testing.T) {
				tp := newTemplate(t)
				withHost(t, tp, nil, func(t *testing.T, w *world, h *agent) {
					taken := h.name
					w.applyFleet(of, map[string]object{"hosts": w.sshFleet(h.name), "rented": {"nodes": object{"min": 1, "max": 1}}}[of])
					time.Sleep(2 * time.Minute)
					old := w.ours()
					if of == "rented" {
						taken = w.addressOf(old[0])
					}
					w.applyRun("one", object{"type": "task", "commands": []string{"work"}}, script{Run: time.Hour, Lines: 3})
					time.Sleep(time.Minute)
					end := time.Now().Add(stale)
					w.says = func(machine, address string) string {
						if time.Now().After(end) || len(old) > 0 && old[0].key() == machine {
							return address
						}
						return taken
					}
					w.applyFleet("more", object{"nodes": object{"min": 1, "max": 1}})
					time.Sleep(3 * time.Minute)
					const why = "the host is in use under another name: instance "
					const more = `SELECT status || ' ' || coalesce(data ->> '$.problem', '') FROM instance WHERE name = 'more-0' AND NOT deleted`
					if got := w.texts(more); len(got) != 1 || got[0] != "provisioning the backend says that the machine is at "+taken+", but "+why+of+"-0" {
						t.Errorf("%q; want that it waits, and why", got)
					}
					time.Sleep(5 * time.Minute)
					if got := w.texts(more); name == "for a while" && !slices.Equal(got, []string{"idle "}) {
						t.Errorf("%q; want that it is had at its true address", got)
					}
					time.Sleep(time.Hour)
					s := w.checks.now()
					if len(s.jobs) != 1 || s.jobs[0].reason != "done_by_runner" {
						t.Errorf("jobs %+v, want one that is done", s.jobs)
					}
					w.holds()
				})
			})
		}
	}
}

// addressOf is where a machine is.
func (w *world) addressOf(m machine) string {
	for _, live := range w.clouds[m.cloud].Live() {
		if live.ID == m.id {
			return m.cloud + "." + live.Address
		}
	}
	return ""
}

// TestMovedMachine gives a machine another address while a job runs on it: its server goes there, and the job goes on. So
// it does where the cloud tells nonsense, for as long as the machine answers or it does not last, and when the server is
// away meanwhile. A machine that is not found again is given back.
func TestMovedMachine(t *testing.T) {
	for name, tt := range map[string]struct {
		moves, cut, tells, restarts bool
		lasts                       time.Duration // how long the cloud tells nonsense
		lost                        bool
	}{
		"moved":                                  {moves: true},
		"moved, and told late":                   {moves: true, tells: true, lasts: 6 * time.Minute},
		"moved while the server is away":         {moves: true, restarts: true},
		"nonsense":                               {tells: true, lasts: time.Hour},
		"nonsense while it is cut off":           {tells: true, lasts: time.Hour, cut: true},
		"nonsense after a restart of the server": {tells: true, lasts: time.Hour, restarts: true},
		"moved, and never told":                  {moves: true, tells: true, lasts: time.Hour, lost: true},
	} {
		t.Run(name, func(t *testing.T) {
			tp := newTemplate(t)
			withHost(t, tp, nil, func(t *testing.T, w *world, h *agent) {
				w.applyFleet("hosts", w.sshFleet(h.name)) // of which nonsense tells
				w.applyFleet("rented", object{"nodes": object{"min": 1, "max": 1}})
				time.Sleep(2 * time.Minute)
				w.applyRun("one", object{"type": "task", "commands": []string{"work"}, "fleets": []string{"rented"}}, script{Run: 40 * time.Minute, Lines: 3})
				time.Sleep(time.Minute)
				m := w.ours()[0]
				end, address := time.Now().Add(tt.lasts), w.addressOf(m)
				if tt.tells {
					w.says = func(_, address string) string {
						if time.Now().After(end) {
							return address
						}
						return h.name
					}
				}
				if tt.restarts {
					w.stop()
				}
				if tt.moves {
					w.move(m, "moved.fake.example")
					address = m.cloud + ".moved.fake.example"
				}
				for _, machine := range w.every() {
					if machine != h && tt.cut {
						machine.cut(4 * time.Minute)
					}
				}
				if tt.restarts {
					time.Sleep(time.Minute)
					w.start()
				}
				time.Sleep(10 * time.Minute)
				const where = `SELECT status || ' ' || unreachable || ' ' || (data ->> '$.provisioning.hostname') FROM instance WHERE name = 'rented-0' AND NOT deleted`
				if got, want := w.texts(where), "busy 0 "+address; !tt.lost && !slices.Equal(got, []string{want}) {
					t.Errorf("%q, want %q", got, want)
				}
				if got := w.texts(`SELECT data ->> '$.provisioning.hostname' FROM job`); !tt.lost && !slices.Equal(got, []string{address}) {
					t.Errorf("clients are told %q, want %q", got, address)
				}
				time.Sleep(time.Hour)
				want := "done_by_runner"
				if tt.lost {
					want = "instance_unreachable"
				}
				if s := w.checks.now(); len(s.jobs) != 1 || s.jobs[0].reason != want {
					t.Errorf("jobs %+v, want one that is %s", s.jobs, want)
				}
				if !tt.lost { // it was there
					w.holds()
				}
			})
		})
	}
}

// move gives a machine another address: what was connected to the old one is cut.
func (w *world) move(m machine, address string) {
	w.trace.add("trouble", m.key(), "moves to "+address)
	w.clouds[m.cloud].Move(m.id, address)
	w.mu.Lock()
	h := w.machines[m.key()]
	w.mu.Unlock()
	if h != nil {
		h.dropLinks()
	}
}

// planAddresses draws machines that get another address, and when clouds tell of machines that they are where another
// host is.
func (w *world) planAddresses(rnd *rand.Rand, add plan) {
	if rnd.IntN(2) == 0 {
		return
	}
	for n := range rnd.IntN(4) {
		pick := rnd.IntN(1 << 20)
		add(time.Minute, chaosFor, func() {
			all := w.ours()
			if len(all) == 0 || !w.current().alive() {
				return
			}
			m := all[pick%len(all)]
			w.count("machine moved")
			w.move(m, fmt.Sprintf("%s-moved-%d.fake.example", m.id, n))
		})
	}
	w.says = func(machine, address string) string {
		h := fnv.New64a()
		_, _ = h.Write([]byte("address of " + machine)) // a hash takes everything
		own := rand.New(rand.NewPCG(w.seed, h.Sum64()))
		if own.IntN(2) == 0 || w.isCalm() {
			return address
		}
		from := w.began.Add(seconds(own, 0, int(chaosFor.Seconds())))
		if now := time.Now(); now.Before(from) || now.After(from.Add(seconds(own, 10, 240))) {
			return address
		}
		var others []string // in use
		for _, name := range slices.Sorted(maps.Keys(w.hosts)) {
			if w.hosts[name].hasAgent() {
				others = append(others, name)
			}
		}
		for _, m := range w.ours() {
			at := w.addressOf(m)
			if h := w.at(at); at != address && h != nil && h.hasAgent() {
				others = append(others, at)
			}
		}
		if len(others) == 0 {
			return address
		}
		w.count("wrong address")
		return others[own.IntN(len(others))]
	}
}
