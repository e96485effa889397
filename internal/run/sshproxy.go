package run

import (
	"strconv"
	"strings"

	"dstack/internal/api"
)

// SSHProxy is where users reach their jobs' SSH servers when the hosts are not for them; the
// zero value is none.
type SSHProxy struct {
	Host string
	Port int // 0: 22
	// Enforced keeps the keys of users off hosts and containers: there is no other way.
	Enforced bool
}

// userKeys are the keys of a run's owner that its hosts and containers let in.
func (p SSHProxy) userKeys(public string) []string {
	if p.Enforced {
		return nil
	}
	return []string{strings.TrimSpace(public)}
}

// connect tells the clients of a run about the proxy, which knows jobs by their ids.
func (p SSHProxy) connect(v *api.Run) {
	if p.Host == "" {
		return
	}
	for i := range v.Jobs {
		c := v.Jobs[i].JobConnectionInfo
		if c == nil {
			continue
		}
		id := strings.ReplaceAll(v.Jobs[i].JobSubmissions[len(v.Jobs[i].JobSubmissions)-1].ID, "-", "")
		c.SSHProxyHostname, c.SSHProxyUpstreamID = &p.Host, &id
		authority := id + "@" + p.Host
		c.ProxiedSSHCommand = []string{"ssh", authority}
		if p.Port != 0 {
			c.SSHProxyPort = &p.Port
			c.ProxiedSSHCommand = append(c.ProxiedSSHCommand, "-p", strconv.Itoa(p.Port))
			authority += ":" + strconv.Itoa(p.Port)
		}
		if c.AttachedIDEURL != nil { // the same with another authority
			url := strings.Replace(*c.AttachedIDEURL, c.AttachedSSHCommand[1], authority, 1)
			c.ProxiedIDEURL = &url
		}
	}
}
