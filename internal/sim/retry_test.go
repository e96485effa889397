package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// retryEvents are the events of a retry policy.
var retryEvents = []string{"no-capacity", "interruption", "error"}

// drawRetry has a run that is tried again be so for some events alone, and returns them, nil for one that is not.
func drawRetry(rnd *rand.Rand, c object) (events []string) {
	policy, ok := c["retry"].(object)
	if !ok {
		return nil
	}
	for _, e := range retryEvents {
		if rnd.IntN(3) > 0 {
			events = append(events, e)
		}
	}
	if events == nil {
		events = retryEvents
	}
	policy["on_events"] = events
	return events
}

// policy is for what and how long a run wants to be tried again. What begins anew for other reasons, as services and
// runs with a schedule do, is not followed.
type policy struct {
	followed bool
	events   []string
	lasts    time.Duration
}

func policyOf(config object) policy {
	p := policy{followed: config["type"] != "service" && config["schedule"] == nil}
	if r, ok := config["retry"].(object); ok {
		p.events, _ = r["on_events"].([]string)
		p.lasts = lasting(r["duration"])
	}
	return p
}

// lasting reads a duration of a configuration: seconds, or a text like 30m and 1d; 0 for what it does not know.
func lasting(v any) time.Duration {
	if n, ok := v.(int); ok {
		return time.Duration(n) * time.Second
	}
	text := fmt.Sprint(v)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil {
			return time.Duration(n) * 24 * time.Hour
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0
	}
	return d
}

// event is the event of a policy that a job's end is, "" for none.
func (j jobRow) event() string {
	switch j.reason {
	case "failed_to_start_due_to_no_capacity":
		return "no-capacity"
	case "interrupted_by_no_capacity":
		return "interruption"
	case "done_by_runner", "terminated_by_user", "aborted_by_user", "terminated_by_server", "scaled_down", "max_duration_exceeded",
		"inactivity_duration_exceeded", "terminated_due_to_utilization_policy":
		return ""
	}
	return "error"
}

// retriesRight is I22: a job gets another attempt only after an event of its run's retry policy, and a run fails only
// for what is none of them, for a job that never had a machine, or when the time of its policy is over. A machine that
// is lost is an interruption if it was a spot instance.
func retriesRight(s *state) (bad []string) {
	if s.prev == nil {
		return nil
	}
	known := map[string]bool{}
	for _, j := range s.prev.jobs {
		known[j.id] = true
	}
	for _, j := range s.jobs {
		if known[j.id] || j.attempt == 0 {
			continue
		}
		if p := s.policy(j.run); p.followed {
			bad = append(bad, s.againRight(j, p)...)
		}
	}
	for _, r := range s.runs {
		if r.status != "failed" || s.prev.runs[r.id].status == "failed" {
			continue
		}
		if p := s.policy(r.id); p.followed {
			bad = append(bad, s.failedRight(r, p)...)
		}
	}
	for _, j := range s.fresh() {
		if j.reason == "interrupted_by_no_capacity" && !j.spot || j.reason == "instance_unreachable" && j.spot && j.had {
			bad = append(bad, fmt.Sprintf("job %s (spot: %v) ended with %s", j.name, j.spot, j.reason))
		}
	}
	return bad
}

// policy is what the user wants of a run, if it is the last of its name.
func (s *state) policy(run string) policy {
	r := s.runs[run]
	for _, other := range s.runs {
		if other.name == r.name && other.submitted > r.submitted {
			return policy{}
		}
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.w.wants[r.name].retry
}

// againRight says what is wrong with an attempt: it follows one of which no node met an event of the policy.
func (s *state) againRight(j jobRow, p policy) (bad []string) {
	var ends []string
	for _, before := range s.jobs {
		if before.run != j.run || before.replica != j.replica || before.attempt != j.attempt-1 || !before.finished() && before.status != "terminating" {
			continue
		}
		if slices.Contains(p.events, before.event()) {
			return nil
		}
		ends = append(ends, before.reason)
	}
	if ends == nil { // their rows were dropped
		return nil
	}
	return []string{fmt.Sprintf("job %s is tried again after %q, its policy is for %q", j.name, ends, p.events)}
}

// failedRight says what is wrong with the end of a run.
func (s *state) failedRight(r runRow, p policy) (bad []string) {
	if r.reason == "retry_limit_exceeded" {
		if age := s.now.Sub(time.UnixMicro(r.submitted)); age < p.lasts || p.events == nil {
			bad = append(bad, fmt.Sprintf("run %s is given up after %v, its policy is for %v", r.name, age, p.lasts))
		}
		return bad
	}
	if r.reason != "job_failed" {
		return nil
	}
	had := map[[2]int]bool{}
	last := map[[2]int]jobRow{}
	for _, j := range s.jobs { // by attempt
		if j.run == r.id {
			key := [2]int{j.replica, j.num}
			had[key], last[key] = had[key] || j.had, j
		}
	}
	var ends []string
	for key, j := range last {
		switch event := j.event(); {
		case j.reason == "terminated_by_server", j.reason == "done_by_runner": // not why the run ended
		case !slices.Contains(p.events, event), event != "no-capacity" && !had[key]:
			return nil
		}
		ends = append(ends, j.reason)
	}
	if ends == nil { // it had no jobs
		return nil
	}
	slices.Sort(ends)
	return []string{fmt.Sprintf("run %s failed after %q, its policy is for %q", r.name, ends, p.events)}
}
