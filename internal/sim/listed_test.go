package sim

import (
	"fmt"
	"net/http"
	"reflect"
	"time"
)

// compareLists is I15 when all is calm: lists, which remember what they have shown, show of
// each run and fleet what is shown of it alone.
func (w *world) compareLists() {
	for _, kind := range []struct {
		list, one string
		apart     []string // what may differ
	}{
		// A list says nothing of how to connect and of what machines cost, and the place in a queue may
		// be a second old.
		{"runs/list", "runs/get", []string{"job_connection_info", "waiting", "machine_cost"}},
		{"fleets/list", "fleets/get", []string{"machine_cost"}},
	} {
		var wrong string
		for range 5 { // something may change between the answers
			if wrong = w.unlike(kind.list, kind.one, kind.apart); wrong == "" {
				break
			}
			time.Sleep(time.Second)
		}
		if wrong != "" {
			w.checks.violate("I15", wrong)
		}
	}
}

// unlike names an entry of a list that is not what is shown of it alone, "" for none.
func (w *world) unlike(list, one string, apart []string) string {
	var all []object
	if w.call(list, object{"limit": 100}, &all) != http.StatusOK {
		return ""
	}
	for _, listed := range all {
		var alone object
		if w.call(fmt.Sprint("project/", listed["project_name"], "/", one), object{"id": listed["id"]}, &alone) != http.StatusOK {
			continue
		}
		for _, name := range apart {
			drop(listed, name)
			drop(alone, name)
		}
		for name := range alone {
			if !reflect.DeepEqual(listed[name], alone[name]) {
				return fmt.Sprintf("%s shows as %s of %v:\n%v\nand alone it is\n%v", list, name, listed["id"], listed[name], alone[name])
			}
		}
	}
	return ""
}

// drop removes a member from every object of a document.
func drop(v any, name string) {
	switch v := v.(type) {
	case object:
		delete(v, name)
		for _, x := range v {
			drop(x, name)
		}
	case []any:
		for _, x := range v {
			drop(x, name)
		}
	}
}
