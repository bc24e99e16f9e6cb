package agent

import (
	"errors"
	"fmt"
	"strings"

	"github.com/scope-registry/scope-registry/internal/api"
)

// event reads the lines that are events; nil is a line that is none.
func (s *script) event(a words) Event {
	switch a.cmd {
	case "snap", "more", "item", "beat", "error":
		return s.item(a)
	case "ended":
		return WatchEnded{s.streamOf(a), api.Code(a.pos(0))}
	case "opened":
		return Opened{Session: a.pos(0), Index: a.number(a.pos(1)), Incarnation: s.incarnation(a), Renew: a.span(a.or("renew", "0s")), Lease: a.span(a.or("lease", "0s"))}
	case "open-failed":
		return OpenFailed{api.Code(a.pos(0))}
	case "renewed":
		return Renewed{Session: a.pos(0), SentAt: a.span(a.named["sent"]), Lease: a.span(a.or("lease", "8s")), Index: a.number(a.named["index"])}
	case "renew-failed":
		return RenewFailed{a.pos(0), api.Code(a.pos(1)), a.number(a.named["index"])}
	case "shutdown":
		return Shutdown{}
	case "closed":
		return Closed{a.pos(0)}
	}
	return s.moveEvent(a)
}

func (s *script) moveEvent(a words) Event {
	move := a.pos(0)
	switch a.cmd {
	case "drained":
		return Drained{move}
	case "progressed":
		return Progressed{Move: move, Keys: a.number(a.named["keys"]), Early: a.has("early"), KeysLeft: a.number(a.named["left"])}
	case "shipped":
		return Shipped{move, a.manifest()}
	case "ship-failed":
		return ShipFailed{move, a.pos(1)}
	case "staging":
		return Staging{move}
	case "received":
		return Received{move, a.manifest()}
	case "sealed":
		if a.has("again") { // the event comes twice; the disk has moved on
			return Sealed{s.seals[move]}
		}
		s.disk[move] = s.seals[move]
		return Sealed{s.seals[move]}
	case "promoted":
		m := s.disk[move]
		m.Promoted = true
		s.disk[move] = m
		return Promoted{move}
	case "discarded":
		delete(s.disk, move)
		return Discarded{move}
	case "deleted":
		return Deleted{a.prefix(0), a.epoch(), a.has("done")}
	}
	return nil
}

// incarnation is 1:x unless the line gives inc=N:tag.
func (s *script) incarnation(a words) Incarnation {
	number, tag, _ := strings.Cut(a.or("inc", "1:x"), ":")
	return Incarnation{a.number(number), tag}
}

func (s *script) streamOf(a words) uint64 {
	if text, ok := a.named["stream"]; ok {
		return a.number(text)
	}
	return s.stream
}

// item is one of the watch stream:
//
//	snap 10 [hold] [ended=N] | change …  a whole snapshot; "more" if lines follow
//	item 11 | change …                   what happened at an index
//	beat 12                              a heartbeat
//	error SLOW
//
// each with inc=N:tag and stream=N where they are not the usual ones. A snapshot
// begins with the record of the cluster, unless "headless" is said.
func (s *script) item(a words) Event {
	inc := s.incarnation(a)
	if a.cmd == "error" {
		it := api.WatchItem{Type: a.cmd, Incarnation: inc.Number, Tag: inc.Tag, Error: &api.Error{Code: api.Code(a.pos(0))}}
		return Watched{s.streamOf(a), it}
	}
	it := api.WatchItem{Index: a.number(a.pos(0)), Incarnation: inc.Number, Tag: inc.Tag}
	if a.has("unmarked") { // as a server that tells its incarnation in the record only
		it.Incarnation, it.Tag = 0, ""
	}
	switch a.cmd {
	case "snap", "more":
		it.Type, it.More = "snapshot", a.cmd == "more"
		if !a.has("headless") {
			it.Changes = append(it.Changes, clusterChange(inc, a))
		}
	case "item":
		it.Type = "change"
	case "beat":
		it.Type = "heartbeat"
	}
	for _, part := range a.parts {
		it.Changes = append(it.Changes, s.change(part))
	}
	return Watched{s.streamOf(a), it}
}

func clusterChange(inc Incarnation, a words) api.Change {
	return api.Change{Op: "put", Cluster: &api.ClusterRecord{ID: "c1", Incarnation: inc.Number, Tag: inc.Tag, Hold: a.has("hold"), Ended: a.number(a.named["ended"])}}
}

// change is one record; a dash before its kind deletes it:
//
//	cluster [hold] [ended=N] [inc=N:tag]
//	node n1 [s1@11]
//	scope a: n1 e5 [writer=n2] [fallback=n2] [lease=always] [failover=manual] [to=n2] [released]
//	move m1 a: n1>n2 quiescing [e5] [new=6] [mode=assisted]
//	cleanup n1 a: e5
func (s *script) change(a words) api.Change {
	kind, deleted := strings.CutPrefix(a.cmd, "-")
	c := api.Change{Op: "put"}
	if deleted {
		c.Op = "delete"
	}
	switch kind {
	case "cluster":
		return clusterChange(s.incarnation(a), a)
	case "node":
		c.Node = &api.NodeState{Node: api.Node{ID: a.pos(0), Addr: a.pos(0) + ":1"}}
		if id, opened, ok := strings.Cut(a.pos(1), "@"); ok {
			c.Node.Session = &api.Session{ID: id, Opened: a.number(opened)}
		}
	case "scope":
		c.Scope = &api.Scope{Prefix: a.prefix(0).Text(), Owner: a.pos(1), Writer: a.or("writer", a.pos(1)), Epoch: a.epoch(), Fallback: a.named["fallback"],
			Lease: a.named["lease"], Failover: a.named["failover"], Target: a.named["to"], Released: a.has("released"), State: "owned"}
		if c.Scope.Target != "" {
			c.Scope.State = "quiesced"
		}
	case "move":
		from, to, _ := strings.Cut(a.pos(2), ">")
		c.Move = &api.Move{ID: a.pos(0), Prefix: a.prefix(1).Text(), From: from, To: to, Phase: a.pos(3), Epoch: a.epoch(),
			NewEpoch: a.number(a.named["new"]), Mode: a.named["mode"]}
	case "cleanup":
		c.Cleanup = &api.Cleanup{Node: a.pos(0), Prefix: a.prefix(1).Text(), Epoch: a.epoch(), Move: "m0"}
	default:
		s.t.Fatalf("unknown record %q", a.cmd)
	}
	return c
}

// ask is a question to the admission. A write has a name: enter w a:k admits it,
// check w asks whether it may be acknowledged, leave w takes it out of the count.
func (s *script) ask(a words) {
	name := a.pos(0)
	switch a.cmd {
	case "enter":
		s.enter(name, rawKeys(a.pos(1)))
	case "check":
		t := s.ticket(name)
		err := s.adm.CheckKeys(&t, rawKeys(a.pos(1)), at(s.now))
		if t.Scoped() && (s.adm.CheckScope(&t, at(s.now)) == nil) != (err == nil) {
			s.t.Errorf("without its keys the write %s has another fate than with them: %v", name, err)
		}
		s.answer(err)
	case "leave":
		t := s.ticket(name)
		s.adm.Leave(&t)
		delete(s.tickets, name)
	case "drained?":
		fmt.Fprintf(&s.out, "  %v\n", s.adm.Drained(a.prefix(0)))
	case "idle?":
		fmt.Fprintf(&s.out, "  %v\n", s.adm.Idle())
	case "begin-delete":
		fmt.Fprintf(&s.out, "  %v\n", s.adm.BeginDelete(a.prefix(0), a.epoch()))
	case "end-delete":
		s.adm.EndDelete()
	case "serves?":
		s.answer(s.adm.Rules().Serves([]byte(name)))
	case "stages?":
		s.answer(s.adm.Rules().Stages(name))
	default:
		s.t.Fatalf("unknown line %q", a.cmd)
	}
}

func (s *script) ticket(name string) Ticket {
	t, ok := s.tickets[name]
	if !ok {
		s.t.Fatalf("no write %q was admitted", name)
	}
	return t
}

// rawKeys are those of a:k,a:l.
func rawKeys(list string) (raw [][]byte) {
	for _, k := range strings.Split(list, ",") {
		raw = append(raw, []byte(k))
	}
	return raw
}

func (s *script) enter(name string, raw [][]byte) {
	var t Ticket
	var err error
	if len(raw) == 1 {
		t, err = s.adm.Enter(raw[0], at(s.now), 0)
	} else {
		t, err = s.adm.EnterKeys(raw, at(s.now), 0)
	}
	if err != nil {
		s.answer(err)
		return
	}
	s.tickets[name] = t
	fmt.Fprintf(&s.out, "  token=%s/%d\n", incarnationText(t.Token().Incarnation), t.Token().Epoch)
}

// answer prints the code of an error, and whom it names.
func (s *script) answer(err error) {
	var refusal *api.Error
	switch {
	case err == nil:
		fmt.Fprintf(&s.out, "  ok\n")
	case errors.As(err, &refusal):
		fmt.Fprintf(&s.out, "  %s%s%s\n", refusal.Code, field("owner", refusal.Owner), field("epoch", refusal.Epoch))
	default:
		fmt.Fprintf(&s.out, "  no: %v\n", err)
	}
}
