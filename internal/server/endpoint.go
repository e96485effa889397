package server

import (
	"net/http"
	"reflect"
	"slices"
)

// handler answers the requests of one route; an error becomes the response, see [Server.fail].
type handler func(s *Server, c caller, w http.ResponseWriter, r *http.Request) error

// endpoint is what a route does, with what the description of the API says of it.
type endpoint struct {
	handle handler
	in     reflect.Type   // of the body; struct{} for none, upload for a form with a file
	out    []reflect.Type // of the answer's body, one of them
	media  string         // the content type of answers
	query  reflect.Type   // a struct of what is read of the address after the question mark; nil for none
	status []int          // errors beyond those that its other properties tell
	// foreign says that requests are passed on, and that answers are not the server's.
	foreign bool
	// proxy says that the proxy knows the callers, and refuses in a form of its own.
	proxy bool
}

// upload stands for a multipart form with one file, see [part].
type upload struct{}

// typed is an endpoint that reads In and answers Out, both as JSON.
func typed[In, Out any](h handler) endpoint {
	out := reflect.TypeFor[Out]()
	if e, ok := any(*new(Out)).(interface{ Type() reflect.Type }); ok { // encoded already
		out = e.Type()
	}
	return endpoint{handle: h, in: reflect.TypeFor[In](), out: []reflect.Type{out}, media: "application/json"}
}

// answers says which types an answer has whose Go type is open.
func (e endpoint) answers(types ...reflect.Type) endpoint {
	e.out = types
	return e
}

// written says that answers are no JSON.
func (e endpoint) written(media string) endpoint {
	e.media = media
	return e
}

// asks says which struct of parameters the handler reads, see [config.DecodeQuery].
func (e endpoint) asks(query reflect.Type) endpoint {
	e.query = query
	return e
}

// refused names statuses that the handler has for reasons of its own.
func (e endpoint) refused(status ...int) endpoint {
	e.status = status
	return e
}

// passedOn says that the answer is not the server's.
func (e endpoint) passedOn() endpoint {
	e.foreign = true
	return e
}

// byProxy says that the proxy answers.
func (e endpoint) byProxy() endpoint {
	e.proxy = true
	return e
}

// hasBody says that requests carry something.
func (e endpoint) hasBody() bool { return e.in != reflect.TypeFor[struct{}]() }

// errors are the statuses of refusals, ascending.
func (rt route) errors() []int {
	list := append([]int{http.StatusBadRequest}, rt.status...)
	if rt.proxy {
		list = append(list, http.StatusForbidden)
	}
	if rt.who != public {
		list = append(list, http.StatusUnauthorized, http.StatusForbidden)
	}
	if rt.inProject() {
		list = append(list, http.StatusNotFound)
	}
	if rt.hasBody() || rt.query != nil || len(rt.pathParameters()) > 0 {
		list = append(list, http.StatusUnprocessableEntity)
	}
	if rt.hasBody() && rt.in != reflect.TypeFor[upload]() {
		list = append(list, http.StatusRequestEntityTooLarge)
	}
	slices.Sort(list)
	return slices.Compact(list)
}
