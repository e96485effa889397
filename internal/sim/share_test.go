package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// guests is the project with which the hosts of the project main are shared.
const guests = "guests"

// projectOf is the project of a run, by its name.
func projectOf(run string) string {
	if strings.HasPrefix(run, "guest-") {
		return guests
	}
	return "main"
}

// planShares has the hosts' fleet exported to another project, whose runs take places there, and
// taken away from it while they do.
func (w *world) planShares(rnd *rand.Rand, add plan) {
	if len(w.hosts) == 0 || rnd.IntN(2) == 0 {
		return
	}
	share := w.again(func() int {
		w.trace.add("user", "shares", "hosts")
		return w.call("project/main/exports/create", object{"name": "shared", "importer_projects": []string{guests}, "exported_fleets": []string{"hosts"}}, nil)
	})
	revoke := w.again(func() int {
		w.trace.add("user", "does not share any more", "hosts")
		return w.call("project/main/exports/delete", object{"name": "shared"}, nil)
	})
	less := choose(rnd, object{"remove_importer_projects": []string{guests}}, object{"remove_exported_fleets": []string{"hosts"}})
	less["name"] = "shared"
	if rnd.IntN(2) == 0 {
		revoke = w.again(func() int {
			w.trace.add("user", "shares less", "hosts")
			return w.call("project/main/exports/update", less, nil)
		})
	}
	add(10*time.Second, time.Minute, share)
	if rnd.IntN(2) == 0 {
		add(time.Minute, chaosFor, revoke)
		if rnd.IntN(2) == 0 {
			add(3*time.Minute, chaosFor, share)
		}
	}
	own := rand.New(rand.NewPCG(w.seed, 9)) // of what was added later: other things stay as they were
	for n := range 1 + rnd.IntN(4) {
		name := fmt.Sprintf("guest-%d", n)
		c, class := runConfig(rnd)
		class = fmt.Sprint(class, drawRetry(own, c))
		c["env"] = object{"CLASS": guests + " " + class}
		if rnd.IntN(2) == 0 {
			c["fleets"] = []string{"main/hosts"}
			c["env"] = object{"CLASS": guests + " named " + class}
		}
		s := script{Pull: seconds(rnd, 0, 20), Run: seconds(rnd, 2, 240), Stop: seconds(rnd, 0, 10), Lines: rnd.IntN(12)}
		at := time.Minute + time.Duration(rnd.Int64N(int64(chaosFor/2)))
		add(at, at+time.Second, w.again(func() int { return w.applyRun(name, c, s) }))
		if abort := rnd.IntN(2) == 0; rnd.IntN(4) == 0 {
			add(at+time.Second, at+5*time.Minute, w.again(func() int { return w.stopRun(name, abort) }))
		}
	}
}

// sharesRight is I16: a job has a place only where its project may be, on an instance of its own
// or of a fleet that it imports.
func sharesRight(s *state) (bad []string) {
	instances := s.instancesByID()
	for _, j := range s.jobs {
		inst := instances[j.instance]
		if j.placed() && j.status != "terminating" && inst.project != j.project && !s.imports[importRow{j.project, inst.fleet}] {
			bad = append(bad, fmt.Sprintf("job %s is %s on instance %s, whose fleet its project does not import", j.name, j.status, inst.name))
		}
	}
	return bad
}
