package server

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"dstack/internal/api"
	"dstack/internal/sshkey"
)

// hostFleet is an application of a fleet of hosts.
func hostFleet(t *testing.T, name string, hosts ...string) map[string]any {
	t.Helper()
	key, err := sshkey.Generate("test")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{"force": true, "plan": map[string]any{"spec": map[string]any{"profile": map[string]any{"name": "default"},
		"configuration": map[string]any{"type": "fleet", "name": name, "ssh_config": map[string]any{"user": "u", "hosts": hosts,
			"ssh_key": map[string]any{"public": key.Public, "private": key.Private}}}}}}
}

// planned is the question for a plan of what an application applies.
func planned(application map[string]any) map[string]any {
	return map[string]any{"spec": application["plan"].(map[string]any)["spec"]}
}

func getFleet(t *testing.T, s *Server, name string) (f api.Fleet) {
	t.Helper()
	s.must(t, "/api/project/main/fleets/get", map[string]any{"name": name}, &f)
	return f
}

// A host that is being removed and that the configuration names comes back when it has been
// cleaned, unless it is removed once more.
func TestRemovedHostComesBack(t *testing.T) {
	eachServer(t, func(t *testing.T, s *Server) {
		remove := func(name string) {
			t.Helper()
			s.must(t, "/api/project/main/fleets/delete_instances", map[string]any{"name": name, "instance_nums": []int{1}}, nil)
		}
		for _, name := range []string{"back", "gone"} {
			application := hostFleet(t, name, name+"-a.invalid", name+"-b.invalid")
			s.must(t, "/api/project/main/fleets/apply", application, nil)
			remove(name)
			s.must(t, "/api/project/main/fleets/apply", application, nil)
			var plan api.FleetPlan
			s.must(t, "/api/project/main/fleets/get_plan", planned(application), &plan)
			if n := len(plan.CurrentResource.Spec.Configuration.SSHConfig.Hosts); n != 2 {
				t.Errorf("fleet %s has %d hosts after it was applied, want 2", name, n)
			}
		}
		remove("gone")
		was := getFleet(t, s, "back")

		r := start(t, s)
		until(t, "one host to come back and one to be gone", func() bool {
			is, other := getFleet(t, s, "back").Instances, getFleet(t, s, "gone").Instances
			return len(is) == 2 && is[1].ID != was.Instances[1].ID && len(other) == 1
		})
		r.stop()
		if err := <-r.ended; err != nil {
			t.Error(err)
		}
	})
}

// A host that is removed takes none with it whose address begins alike.
func TestOneHostIsRemoved(t *testing.T) {
	s := newServer(t)
	application := hostFleet(t, "boxes", "fd00::1", "fd00::1:2")
	s.must(t, "/api/project/main/fleets/apply", application, nil)
	spec := application["plan"].(map[string]any)["spec"].(map[string]any)
	spec["configuration"].(map[string]any)["ssh_config"].(map[string]any)["hosts"] = []string{"fd00::1:2"}
	s.must(t, "/api/project/main/fleets/apply", application, nil)
	for _, inst := range getFleet(t, s, "boxes").Instances {
		if kept := *inst.Hostname == "fd00::1:2"; kept != (inst.Status == api.InstancePending) {
			t.Errorf("host %s is %s", *inst.Hostname, inst.Status)
		}
	}
}

// Hosts of other fleets are named, however many hosts there are.
func TestHostsOfAnotherFleet(t *testing.T) {
	s := newServer(t)
	s.must(t, "/api/project/main/fleets/apply", hostFleet(t, "one", "a.invalid", "b.invalid", "c.invalid"), nil)
	hosts := []string{"c.invalid"}
	for n := range 600 {
		hosts = append(hosts, fmt.Sprint("other", n, ".invalid"))
	}
	const want = "Instances [c.invalid, a.invalid] are already assigned to a fleet."
	a := s.call(t, "POST", "/api/project/main/fleets/get_plan", adminToken, planned(hostFleet(t, "two", append(hosts, "a.invalid")...)))
	if a.Status != http.StatusBadRequest || refusal(a) != want {
		t.Errorf("%d %s, want %q", a.Status, a.Body, want)
	}
}

// Fleets that want each other's hosts at the same time are refused, not broken.
func TestHostsOfTwoFleets(t *testing.T) {
	eachServer(t, func(t *testing.T, s *Server) {
		applications := []map[string]any{hostFleet(t, "one", "a.invalid"), hostFleet(t, "one", "a.invalid", "b.invalid"), hostFleet(t, "one", "b.invalid"), hostFleet(t, "two", "b.invalid")}
		for range 8 {
			var all sync.WaitGroup
			for _, application := range applications {
				all.Go(func() {
					a := s.call(t, "POST", "/api/project/main/fleets/apply", adminToken, application)
					if a.Status != http.StatusOK && a.Status != http.StatusBadRequest {
						t.Errorf("%d %s", a.Status, a.Body)
					}
				})
			}
			all.Go(func() {
				s.call(t, "POST", "/api/project/main/fleets/delete_instances", adminToken, map[string]any{"name": "one", "instance_nums": []int{0, 1}})
			})
			all.Wait()
		}
	})
}

// Of fleets that are changed at the same time each has all its hosts, also when the database had a transaction run twice.
func TestFleetsGrowTogether(t *testing.T) {
	eachServer(t, func(t *testing.T, s *Server) {
		names := []string{"one", "two", "three", "four", "five", "six"}
		for _, name := range names {
			s.must(t, "/api/project/main/fleets/apply", hostFleet(t, name, name+"-0.invalid"), nil)
		}
		const more = 4
		for n := range more {
			var all sync.WaitGroup
			for _, name := range names {
				var hosts []string
				for k := range n + 2 {
					hosts = append(hosts, fmt.Sprint(name, "-", k, ".invalid"))
				}
				application := hostFleet(t, name, hosts...)
				all.Go(func() {
					if a := s.call(t, "POST", "/api/project/main/fleets/apply", adminToken, application); a.Status != http.StatusOK {
						t.Errorf("%d %s", a.Status, a.Body)
					}
				})
			}
			all.Wait()
		}
		for _, name := range names {
			f := getFleet(t, s, name)
			if n := len(f.Spec.Configuration.SSHConfig.Hosts); n != 1+more || len(f.Instances) != n {
				t.Errorf("fleet %s is said to have %d hosts and has %d, want %d", name, n, len(f.Instances), 1+more)
			}
		}
	})
}

// A fleet that ends is not changed any more.
func TestEndingFleetStays(t *testing.T) {
	s := newServer(t)
	application := hostFleet(t, "boxes", "a.invalid")
	s.must(t, "/api/project/main/fleets/apply", application, nil)
	s.must(t, "/api/project/main/fleets/delete", map[string]any{"names": []string{"boxes"}}, nil)
	const want = "Fleet 'boxes' is being deleted. Try again later."
	for path, body := range map[string]any{"apply": application, "get_plan": planned(application)} {
		if a := s.call(t, "POST", "/api/project/main/fleets/"+path, adminToken, body); a.Status != http.StatusBadRequest || refusal(a) != want {
			t.Errorf("%s: %d %s, want %q", path, a.Status, a.Body, want)
		}
	}
}
