package lambda

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"dstack/internal/backend"
)

// Limits of Lambda's (API description 1.10.0).
const (
	maxUserData = 1 << 20 // bytes
	maxName     = 64
	maxTagKey   = 55
	maxTagValue = 128
)

var tagPattern = regexp.MustCompile(`^[a-z][a-z0-9-:]+$`)

// launchOf checks a request and writes it in Lambda's terms, without the key.
func launchOf(req backend.CreateRequest) (launch, error) {
	switch {
	case req.Token == "" || req.Name == "":
		return launch{}, &backend.InvalidError{Path: "name", Msg: "token and name are required"}
	case len(req.Name) > maxName:
		return launch{}, &backend.InvalidError{Path: "name", Msg: fmt.Sprintf("is longer than %d characters", maxName)}
	case req.Offer.Resources.Spot:
		return launch{}, &backend.InvalidError{Path: "offer", Msg: "lambda has no spot instances"}
	case len(req.SSHKeys) == 0:
		return launch{}, &backend.InvalidError{Path: "ssh_keys", Msg: "lambda launches nothing without an SSH key"}
	case len(req.Volumes) > 0:
		return launch{}, &backend.InvalidError{Path: "volumes", Msg: "lambda has no volumes"}
	}
	data := userData(req)
	if len(data) > maxUserData {
		return launch{}, &backend.InvalidError{Path: "user_data", Msg: fmt.Sprintf("is larger than the %d bytes that lambda takes", maxUserData)}
	}
	return launch{
		Region: req.Offer.Region, Type: req.Offer.Instance, Name: req.Name, UserData: data, Tags: tags(req.Tags),
	}, nil
}

// tags leaves out what Lambda would refuse: a user's tag is no reason not to get a machine.
func tags(wanted map[string]string) []tag {
	all := []tag{}
	for k, v := range wanted {
		if len(k) <= maxTagKey && len(v) <= maxTagValue && tagPattern.MatchString(k) {
			all = append(all, tag{k, v})
		}
	}
	slices.SortFunc(all, func(a, b tag) int { return strings.Compare(a.Key, b.Key) })
	return all
}
