package access

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/scope-registry/scope-registry/scope"
)

// Role is what somebody is to the cluster.
type Role uint8

// The roles. Nobody, the zero Role, may do nothing: a Who that was forgotten to be filled in is refused.
const (
	Nobody    Role = iota
	Anonymous      // showed nothing, and the cluster admits such
	Viewer         // reads
	Node           // one data node
	Operator       // declares scopes and moves them
	Admin          // everything, with what only a person can know: that a machine is off, that a loss is accepted
	Server         // a member of the cluster
)

var roleNames = []string{"nobody", "anonymous", "viewer", "node", "operator", "admin", "server"}

// String is the role's name, as certificates and tokens spell it.
func (r Role) String() string {
	if int(r) < len(roleNames) {
		return roleNames[r]
	}
	return fmt.Sprintf("role-%d", uint8(r))
}

// ParseRole reverses String for the roles that a certificate or a token can give: viewer, node, operator, admin and server.
func ParseRole(name string) (Role, error) {
	if role, ok := RoleNamed(name); ok {
		return role, nil
	}
	return Nobody, fmt.Errorf("role %q is none; the roles are %s", name, strings.Join(roleNames[Viewer:], ", "))
}

// RoleNamed is ParseRole for who has no use for an error.
func RoleNamed(name string) (Role, bool) {
	if at := slices.Index(roleNames, name); at >= int(Viewer) {
		return Role(at), true
	}
	return Nobody, false
}

const (
	// Scheme is that of the URI in a certificate's subject alternative names.
	Scheme = "scope-registry"
	// MaxClusterName bounds the name of a cluster in certificates, in bytes: it is a host name's label.
	MaxClusterName = 63
)

// Who is somebody that asks. It is a comparable value.
type Who struct {
	Role Role
	// ID is of the server or node, or the name of a person or program; "" where none was given. Of node and server it is
	// always given.
	ID string
	// Token is the id of the token that was shown, "" of a certificate.
	Token string
	// Prefix, if not empty, is the only one under which an operator's token changes scopes.
	Prefix scope.Prefix
}

// String names who it is for logs and records, like "node/n1", "operator/alice", "admin token:ci"; printable ASCII
// without quotes, at most 150 bytes.
func (w Who) String() string {
	s := w.Role.String()
	if w.ID != "" {
		s += "/" + w.ID
	}
	if w.Token != "" {
		s += " token:" + w.Token
	}
	return s
}

// URI is the form in certificates: scope-registry://CLUSTER/ROLE[/ID].
func (w Who) URI(cluster string) *url.URL {
	path := "/" + w.Role.String()
	if w.ID != "" {
		path += "/" + w.ID
	}
	return &url.URL{Scheme: Scheme, Host: cluster, Path: path}
}

// FromURI reverses [Who.URI]. The error names the URI and what is wrong with it.
func FromURI(u *url.URL) (cluster string, w Who, err error) {
	bad := func(why string) (string, Who, error) {
		return "", Who{}, fmt.Errorf("identity %q %s; it is %s://CLUSTER/ROLE[/ID]", u.String(), why, Scheme)
	}
	if u.Scheme != Scheme || u.Opaque != "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return bad("is of another form")
	}
	if err := CheckCluster(u.Host); err != nil {
		return bad("names no cluster")
	}
	role, id, hasID := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if w.Role, err = ParseRole(role); err != nil {
		return bad("has no role of ours")
	}
	if w.ID = id; (hasID || w.Role == Node || w.Role == Server) && CheckID(id) != nil {
		return bad("has no id of letters, digits and . _ -")
	}
	return u.Host, w, nil
}

// CheckCluster refuses what cannot be the name of a cluster in a certificate.
func CheckCluster(name string) error {
	if name == "" || len(name) > MaxClusterName || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("cluster name %q is not 1 to %d of a-z, 0-9 and -", name, MaxClusterName)
	}
	return nil
}

// CheckID refuses what cannot be the id of somebody. It has the form of a node's id.
func CheckID(id string) error { return scope.NodeID(id).Check() }
