package nebiusclient

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	commonpb "dstack/internal/nebiusclient/pb/nebius/common/v1"
)

// ErrRefused says that credentials are not taken, or may not do what was asked for.
var ErrRefused = errors.New("credentials rejected")

// Error is what became of a call that failed. Its text is one line, without the secrets of the call
// whatever the server says.
type Error struct {
	// Details are what Nebius says of the error besides, often one.
	Details []*commonpb.ServiceError

	call    string // "compute List"
	status  *status.Status
	text    string
	refused bool
	token   bool // it was the call for an access token
}

// newError describes the failure of a call in which some secrets were sent.
func newError(call string, err error, secrets ...string) *Error {
	e := &Error{call: call, status: status.Convert(err)}
	e.text = e.status.Message()
	for _, secret := range secrets {
		e.text = strings.ReplaceAll(e.text, secret, "***")
	}
	e.text = oneLine(e.text)
	e.refused = e.Code() == codes.Unauthenticated || e.Code() == codes.PermissionDenied
	for _, detail := range e.status.Details() {
		if d, ok := detail.(*commonpb.ServiceError); ok {
			e.Details = append(e.Details, d)
		}
	}
	return e
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%s: %s (%s)", e.call, e.text, e.Code()) }

// Is makes errors.Is find [ErrRefused].
func (e *Error) Is(target error) bool { return target == ErrRefused && e.refused }

// Code is the kind of error, codes.Unknown where there was no answer that says.
func (e *Error) Code() codes.Code { return e.status.Code() }

// GRPCStatus makes status.Code and its like work.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code(), e.text) }

// repeatable says that the same call may succeed later: Nebius says so, or says nothing else.
func (e *Error) repeatable() bool {
	for _, d := range e.Details {
		switch d.RetryType {
		case commonpb.ServiceError_CALL:
			return true
		case commonpb.ServiceError_UNIT_OF_WORK, commonpb.ServiceError_NOTHING:
			return false
		}
	}
	switch e.Code() {
	case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded:
		return true
	}
	return false
}

// maxText bounds what is told of what a server says, in characters.
const maxText = 300

// oneLine is the beginning of a text without what would move a terminal's cursor or turn the text around.
func oneLine(text string) string {
	words := strings.FieldsFunc(strings.ToValidUTF8(text, " "), func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) })
	runes := []rune(strings.Join(words, " "))
	if len(runes) > maxText {
		return string(runes[:maxText]) + "..."
	}
	return string(runes)
}
