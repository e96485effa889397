package api

import (
	"errors"
	"fmt"
	"strings"
)

// Code is the machine-readable word of a client error.
type Code string

// Error codes (http-api 2).
const (
	CodeError               Code = "error"
	CodeResourceExists      Code = "resource_exists"
	CodeResourceNotExists   Code = "resource_not_exists"
	CodeInvalidCredentials  Code = "invalid_credentials"
	CodeBackendNotAvailable Code = "backend_not_available"
	CodeRepoDoesNotExist    Code = "repo_does_not_exist"
	CodeGatewayError        Code = "gateway_error"
)

// Kind of an error says which status it gets.
type Kind int

// Kinds.
const (
	KindBadRequest   Kind = iota // 400
	KindForbidden                // 403
	KindNotFound                 // 404: the project in the path
	KindUnauthorized             // 401
	KindTooLarge                 // 413
	KindValidation               // 422
	KindServer                   // 5xx
)

// Error is a refusal: what a client did wrong, in words for people. The server turns it
// into a response; the client makes it from one.
type Error struct {
	Kind   Kind
	Code   Code
	Msg    string
	Fields [][]string // paths of the fields at fault
	Status int        // as received by a client, 0 on the server
}

func (e *Error) Error() string { return e.Msg }

// BadRequest refuses a request.
func BadRequest(code Code, format string, args ...any) *Error {
	return &Error{Kind: KindBadRequest, Code: code, Msg: fmt.Sprintf(format, args...)}
}

// Invalid refuses a request for what it asks (code "error").
func Invalid(format string, args ...any) *Error { return BadRequest(CodeError, format, args...) }

// NotExists says that the named thing is not there (status 400, as clients expect).
func NotExists(format string, args ...any) *Error {
	if format == "" {
		format = "Resource not found"
	}
	return BadRequest(CodeResourceNotExists, format, args...)
}

// Exists says that a name is taken.
func Exists(format string, args ...any) *Error {
	if format == "" {
		format = "Resource exists"
	}
	return BadRequest(CodeResourceExists, format, args...)
}

// Forbidden refuses for lack of permission.
func Forbidden() *Error { return &Error{Kind: KindForbidden, Msg: "Access denied"} }

// IsNotExists tells a missing resource from other errors.
func IsNotExists(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == CodeResourceNotExists
}

// IsExists tells a name that is taken from other errors.
func IsExists(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == CodeResourceExists
}

// List writes names as published clients show them: ['a', 'b'].
func List(names []string) string {
	if len(names) == 0 {
		return "[]"
	}
	return "['" + strings.Join(names, "', '") + "']"
}
