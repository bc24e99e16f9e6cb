package fsm

import (
	"fmt"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// serverCommand reads a change of membership. The instance is "<id>-dir", unless the line gives another.
func (a args) serverCommand(t *testing.T) Command {
	t.Helper()
	instance := a.pos(0) + "-dir"
	if text, ok := a.named["instance"]; ok {
		instance = repeated(text)
	}
	switch a.cmd {
	case "join":
		return &JoinServer{Id: a.pos(0), Addr: a.pos(1), Instance: instance}
	case "leave":
		return &RemoveServer{Id: a.pos(0), Addr: a.pos(1), Instance: instance, AcceptNoMajority: a.has("anyway")}
	case "settle":
		return &SettleServer{Id: a.pos(0), Phase: a.pos(1), Addr: a.pos(2)}
	}
	return a.tokenCommand(t)
}

func (s *script) servers() {
	for _, server := range s.state.Servers() {
		fmt.Fprintf(&s.out, "  %s %s %s %s since %d anyway=%v\n", server.ID, server.Addr, server.Instance, server.Phase, server.Since, server.NoMajority)
	}
}

// drawServer is a change of membership, of one of a few servers so that they meet.
func drawServer(t *rapid.T, s State) Command {
	n := rapid.IntRange(1, 4).Draw(t, "server")
	id := "s" + strconv.Itoa(n)
	addr := fmt.Sprintf("h%d:%d", rapid.IntRange(n, n+1).Draw(t, "host"), rapid.IntRange(1, 2).Draw(t, "port"))
	switch rapid.IntRange(0, 3).Draw(t, "change") {
	case 0:
		return &JoinServer{Id: id, Addr: addr, Instance: rapid.SampledFrom([]string{"one", "one", "one", "two"}).Draw(t, "instance")}
	case 1:
		return &RemoveServer{Id: id, Addr: addr, AcceptNoMajority: rapid.Bool().Draw(t, "anyway")}
	}
	server, ok := s.ServerChanging()
	if !ok || rapid.IntRange(0, 3).Draw(t, "stray") == 0 {
		return &SettleServer{Id: id, Phase: "member", Addr: addr}
	}
	phase := map[ServerPhase]string{ServerJoining: "member", ServerLeaving: "gone"}[server.Phase]
	return &SettleServer{Id: server.ID, Phase: phase, Addr: server.Addr}
}

// What is kept of servers that left is bounded, and the one that left first goes.
func TestServersAreBounded(t *testing.T) {
	s := founded(t)
	for i := range MaxServers + 2 {
		id := fmt.Sprintf("s%d", i)
		s = applied(t, s, &RemoveServer{Id: id, Addr: "h:1"})
		s = applied(t, s, &SettleServer{Id: id, Phase: "gone", Addr: "h:1"})
	}
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	_, first := s.Server("s1")
	_, third := s.Server("s2")
	if n := len(s.Servers()); n != MaxServers || first || !third {
		t.Fatalf("%d servers, the second known: %v, the third: %v", n, first, third)
	}
}
