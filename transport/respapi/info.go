package respapi

import (
	"fmt"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/transport/resp"
)

func serverCommands() []command {
	return []command{
		{name: "INFO", action: access.Metrics, args: "[<section> …]", about: "This server, in sections; our own is registry", group: groupServer, max: anyNumber, run: (*conn).info},
		{name: "CONFIG GET", args: "<name> …", about: "Nothing: there is no configuration to read here", group: groupServer, min: 1, max: anyNumber,
			run: func(c *conn, _ [][]byte) error {
				c.reply(func(w *resp.Writer) { w.Map(0) })
				return nil
			}},
		{name: "CLUSTER", args: "…", about: "Refused: clients find every server's scopes on any of them", group: groupServer, max: anyNumber,
			run: func(*conn, [][]byte) error { return invalid("This instance has cluster support disabled") }},
	}
}

// section is a part of INFO.
type section struct {
	name  string
	facts func(*Server) []string // "name:value"
}

func sections() []section {
	return []section{
		{"Server", (*Server).serverFacts},
		{"Clients", (*Server).clientFacts},
		{"Persistence", func(*Server) []string { return []string{"loading:0"} }},
		{"Replication", func(*Server) []string { return []string{"role:master", "connected_slaves:0"} }},
		{"Registry", (*Server).registryFacts},
	}
}

func (c *conn) info(args [][]byte) error {
	var parts []string
	for _, s := range sections() {
		if wanted(args, s.name) {
			parts = append(parts, "# "+s.name+"\r\n"+strings.Join(s.facts(c.srv), "\r\n")+"\r\n")
		}
	}
	c.reply(func(w *resp.Writer) { w.BulkString(strings.Join(parts, "\r\n")) })
	return nil
}

func wanted(asked [][]byte, name string) bool {
	for _, a := range asked {
		for _, word := range []string{name, "all", "default", "everything"} {
			if isWord(a, word) {
				return true
			}
		}
	}
	return len(asked) == 0
}

func (s *Server) serverFacts() []string {
	return []string{"redis_version:" + redisVersion, "redis_mode:standalone", "server_name:" + serverName,
		"registry_version:" + oneLineOf(s.version), fmt.Sprintf("uptime_in_seconds:%d", int(time.Since(s.started).Seconds()))}
}

func (s *Server) clientFacts() []string {
	return []string{fmt.Sprintf("connected_clients:%d", s.connsLen()), fmt.Sprintf("maxclients:%d", MaxConns),
		fmt.Sprintf("pubsub_clients:%d", s.subscribers.Load())}
}

func (s *Server) registryFacts() []string {
	st := s.reg.State()
	leader, contact, known := s.reg.Leader()
	if !known {
		leader = ""
	}
	ready, why := 1, ""
	if err := s.reg.Ready(); err != nil {
		ready, why = 0, err.Error()
	}
	return []string{"id:" + s.reg.ID(), "cluster:" + st.Cluster().ID, "leader:" + leader,
		fmt.Sprintf("leader_last_contact_ms:%d", contact.Milliseconds()),
		fmt.Sprintf("ready:%d", ready), "not_ready_because:" + oneLineOf(why),
		fmt.Sprintf("index:%d", st.Index()), fmt.Sprintf("config_index:%d", st.ConfigIndex()),
		fmt.Sprintf("scopes:%d", st.Scopes().Len()), fmt.Sprintf("scopes_without_fallback:%d", st.Scopes().NoFallbackLen()),
		fmt.Sprintf("nodes:%d", st.NodesLen()), fmt.Sprintf("moves_running:%d", st.Moves().RunningLen()),
		fmt.Sprintf("cleanups_pending:%d", st.CleanupsLen())}
}

// oneLineOf keeps a value from becoming two lines of INFO.
func oneLineOf(text string) string { return strings.NewReplacer("\r", " ", "\n", " ").Replace(text) }
