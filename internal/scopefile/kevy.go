package scopefile

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// flatStrings takes kevy's "scopes" or "peers": one string, or an array of them.
func (r *reader) flatStrings(key string, v *unstable.Node, line int) error {
	r.flat = true
	take := r.flatScope
	if key == "peers" {
		take = r.flatPeer
	}
	each := func(s *unstable.Node) error {
		if s.Kind != unstable.String {
			return r.errorf(line, "cluster.%s must be a string, or an array of strings", key)
		}
		for token := range strings.SplitSeq(string(s.Data), ",") {
			if token = strings.TrimSpace(token); token == "" {
				continue // a trailing comma
			}
			if err := take(token, line); err != nil {
				return err
			}
		}
		return nil
	}
	if v.Kind != unstable.Array {
		return each(v)
	}
	for it := v.Children(); it.Next(); {
		if it.Node().Kind == unstable.Comment {
			continue
		}
		if err := each(it.Node()); err != nil {
			return err
		}
	}
	return nil
}

// flatScope takes "prefix=writer" or "prefix=writer|fallback". A node id has no
// equals sign, so the last one separates and a prefix may have its own.
func (r *reader) flatScope(token string, line int) error {
	at := strings.LastIndexByte(token, '=')
	if at < 0 {
		return r.errorf(line, "scope %q has no writer; write prefix=writer or prefix=writer|fallback", token)
	}
	writer, fallback, has := strings.Cut(token[at+1:], "|")
	writer, fallback = strings.TrimSpace(writer), strings.TrimSpace(fallback)
	if has && fallback == "" {
		return r.errorf(line, "scope %q has a | and no fallback after it; name the fallback or leave the | out", token)
	}
	return r.addScope(strings.TrimSpace(token[:at]), Scope{Writer: writer, Fallback: fallback, Line: line})
}

// flatPeer takes "id@host:port[:client_port[:repl_port]]". The address that
// clients are sent to has the client port, if there is one.
func (r *reader) flatPeer(token string, line int) error {
	id, rest, ok := strings.Cut(token, "@")
	if !ok {
		return r.errorf(line, "peer %q has no @; write id@host:port", token)
	}
	end := strings.IndexByte(rest, ':')
	if strings.HasPrefix(rest, "[") { // an IPv6 address has colons of its own
		if end = strings.Index(rest, "]:"); end >= 0 {
			end++
		}
	}
	if end < 0 {
		return r.errorf(line, "peer %q has no port; write id@host:port[:client_port[:repl_port]]", token)
	}
	host := strings.Trim(rest[:end], "[]")
	ports := strings.Split(rest[end+1:], ":")
	if len(ports) > 3 {
		return r.errorf(line, "peer %q has %d ports; write id@host:port[:client_port[:repl_port]]", token, len(ports))
	}
	for _, p := range ports {
		if err := checkPort(p); err != nil {
			return r.errorf(line, "peer %q: %s", token, err)
		}
	}
	port := ports[0]
	if len(ports) > 1 {
		port = ports[1]
	}
	return r.addNode(Node{ID: strings.TrimSpace(id), Addr: net.JoinHostPort(host, port), Line: line})
}

func checkAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || strings.ContainsAny(addr, " \r\n\t") {
		return fmt.Errorf("addr %q is not host:port; write it like 10.0.0.1:6004", addr)
	}
	return checkPort(port)
}

func checkPort(p string) error {
	if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("port %q is not a number from 1 to 65535", p)
	}
	return nil
}
