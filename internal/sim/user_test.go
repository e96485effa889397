package sim

import (
	"fmt"
	"maps"
	"net/http"
	"time"
)

// What users do, through the API.

type object = map[string]any

// applyFleet submits a fleet's configuration or changes a live one, and remembers what the user wants.
func (w *world) applyFleet(name string, config object) int {
	w.mu.Lock()
	w.fleets[name] = config
	w.mu.Unlock()
	return w.submitFleet(name, config)
}

func (w *world) submitFleet(name string, config object) int {
	config = maps.Clone(config)
	config["type"], config["name"] = "fleet", name
	ssh, _ := config["ssh_config"].(object)
	hosts, _ := ssh["hosts"].([]string)
	return w.aboutHosts(name, hosts, func() int {
		w.trace.add("user", "applies fleet", name)
		return w.call("project/main/fleets/apply", object{"plan": object{"spec": object{
			"configuration": config, "profile": object{"name": "default"}}}, "force": true}, nil)
	})
}

// aboutHosts makes a request after which a fleet is to have these hosts of the user, nil when the user
// cannot say which. It is not known either of a request whose answer is lost, or that meets another.
func (w *world) aboutHosts(fleet string, hosts []string, call func() int) int {
	if fleet != "hosts" {
		return call()
	}
	w.mu.Lock()
	w.hostRequests++
	n := w.hostRequests
	w.mu.Unlock()
	status := call()
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case status == 0 || n != w.hostRequests:
		w.wanted = nil
	case status == http.StatusOK:
		w.wanted = hosts
	}
	return status
}

func (w *world) deleteFleets(names ...string) int {
	w.trace.add("user", "deletes fleets", names...)
	return w.call("project/main/fleets/delete", object{"names": names}, nil)
}

// applyRun submits a run or changes a live one.
func (w *world) applyRun(name string, config object, s script) int {
	config = maps.Clone(config)
	config["name"] = name
	env, _ := config["env"].(object)
	if env = maps.Clone(env); env == nil {
		env = object{}
	}
	env[scriptEnv] = s.String()
	config["env"] = env
	w.mu.Lock()
	w.wants[name] = wantOf(config)
	w.mu.Unlock()
	w.trace.add("user", "applies run", name)
	return w.call("project/"+projectOf(name)+"/runs/apply", object{"plan": object{"run_spec": object{
		"run_name": name, "configuration": config, "ssh_key_pub": w.public}}, "force": true}, nil)
}

func (w *world) stopRun(name string, abort bool) int {
	what := "stops"
	if abort {
		what = "aborts"
	}
	w.trace.add("user", what, name)
	return w.call("project/"+projectOf(name)+"/runs/stop", object{"runs_names": []string{name}, "abort": abort}, nil)
}

func (w *world) deleteRun(name string) int {
	w.trace.add("user", "deletes run", name)
	return w.call("project/"+projectOf(name)+"/runs/delete", object{"runs_names": []string{name}}, nil)
}

// names lists what the user sees of a kind: "runs" or "fleets".
func (w *world) names(kind string) []string {
	var list []struct {
		Name    string `json:"name"`
		RunSpec struct {
			Name string `json:"run_name"`
		} `json:"run_spec"`
	}
	path, body := "runs/list", object{"only_active": true}
	if kind == "fleets" {
		path, body = "project/main/fleets/list", object{}
	}
	if w.call(path, body, &list) != http.StatusOK {
		return nil
	}
	var names []string
	for _, v := range list {
		if v.Name == "" {
			v.Name = v.RunSpec.Name
		}
		names = append(names, v.Name)
	}
	return names
}

// endAll has the user end everything, as often as it takes.
func (w *world) endAll() {
	for range 60 {
		runs, fleets := w.names("runs"), w.names("fleets")
		if len(runs)+len(fleets) == 0 {
			return
		}
		for _, r := range runs {
			w.stopRun(r, false)
		}
		if len(runs) == 0 {
			w.deleteFleets(fleets...)
		}
		time.Sleep(time.Minute)
	}
}

func (w *world) deleteInstance(fleet string, num int) int {
	return w.aboutHosts(fleet, nil, func() int {
		w.trace.add("user", "deletes instance", fmt.Sprint(fleet, "-", num))
		return w.call("project/main/fleets/delete_instances", object{"name": fleet, "instance_nums": []int{num}}, nil)
	})
}
