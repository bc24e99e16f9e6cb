package registry

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/scope"
)

// Servers join, leave, are cut off, restarted and made leaders in any order, and clients write meanwhile. Afterwards nothing
// that was acknowledged is missing, all servers have the same state, and raft's configuration is what the log says.
func TestMembersInAnyOrder(t *testing.T) {
	for seed := range membersSeeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { membersInAnyOrder(t, rand.New(rand.NewPCG(1, seed))) })
		})
	}
}

const membersSeeds = uint64(8)

// crowd is a network whose servers come and go.
type crowd struct {
	*network
	rnd    *rand.Rand
	ended  *endings
	next   int      // number of the next server
	wait   []string // those that wait to be joined, or are being joined
	acked  []string // nodes that were set
	writes int
}

func membersInAnyOrder(t *testing.T, rnd *rand.Rand) {
	n, ended := memberNetwork(t, 3)
	c := &crowd{network: n, rnd: rnd, ended: ended, next: 4}
	for range 40 {
		c.step()
		c.write()
	}
	n.heal()
	var l *node
	n.until("every change to be over", func() bool {
		c.bury()
		l = n.leader("")
		_, changing := toFollow(l.reg.State(), l.reg.servers())
		return !changing && c.same(l)
	})
	for _, id := range c.acked {
		if _, ok := l.reg.State().Node(scope.NodeID(id)); !ok {
			t.Errorf("node %s was acknowledged, and is lost", id)
		}
	}
	if len(c.acked) == 0 {
		t.Error("nothing was written")
	}
	t.Logf("%d writes, %d acknowledged, servers %s, term %d", c.writes, len(c.acked), showServers(l.reg.servers()), l.reg.raft.CurrentTerm())
}

// same is whether all members that run have the state of the leader, and are what it says.
func (c *crowd) same(l *node) bool {
	want := l.reg.State()
	for _, s := range l.reg.servers() {
		r := c.servers[string(s.ID)].now()
		if r == nil || r.State().Hash() != want.Hash() || s.Suffrage != raft.Voter || showServers(r.servers()) != showServers(l.reg.servers()) {
			return false
		}
	}
	return true
}

// bury closes the servers that ended.
func (c *crowd) bury() {
	for id, s := range c.servers {
		if c.ended.of(id) != nil && s.door.Load() != nil {
			if s.started != nil {
				<-s.started
			}
			s.door.Store(nil)
			if err := s.reg.Close(); err != nil {
				c.t.Error(err)
			}
		}
	}
}

func (c *crowd) running() (out []*node) {
	for _, s := range c.everybody() {
		if s.now() != nil && c.ended.of(s.id) == nil {
			out = append(out, s)
		}
	}
	return out
}

func (c *crowd) founders(all []*node) bool {
	return slices.ContainsFunc(all, func(s *node) bool { return slices.ContainsFunc(c.peers, func(p Peer) bool { return p.ID == s.id }) })
}

func (c *crowd) step() {
	c.bury()
	all := c.running()
	s := all[c.rnd.IntN(len(all))]
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Duration(1+c.rnd.IntN(5))*time.Second)
	defer cancel()
	switch c.rnd.IntN(8) {
	case 0:
		c.isolate(s.id)
	case 1:
		c.heal()
	case 2:
		if s.started != nil {
			<-s.started
		}
		s.restart()
		if c.rnd.IntN(2) == 0 {
			c.heal()
		}
	case 3:
		_ = s.now().Transfer(ctx, "")
	case 4, 5:
		if len(c.wait) == 0 && c.next < 10 && c.founders(all) { // whom it is to ask
			c.heal()
			id := fmt.Sprintf("s%d", c.next)
			c.next++
			c.waiting(id)
			c.wait = append(c.wait, id)
		}
		for _, id := range c.wait {
			if _, err := s.now().Join(ctx, fsm.Envelope{}, id, id+":1"); err == nil {
				c.wait = slices.DeleteFunc(c.wait, func(w string) bool { return w == id })
			}
		}
	case 6:
		servers := s.now().servers()
		if len(servers) == 0 { // it was joined just now
			return
		}
		id := string(servers[c.rnd.IntN(len(servers))].ID)
		_, err := s.now().Remove(ctx, fsm.Envelope{}, id, false)
		if err != nil && c.rnd.IntN(2) == 0 {
			_, _ = s.now().Join(ctx, fsm.Envelope{}, id, id+":1") // it may have been taken
		}
	case 7:
		<-time.After(time.Duration(c.rnd.IntN(4000)) * time.Millisecond)
	}
}

func (c *crowd) write() {
	for range 3 {
		all := c.running()
		c.writes++
		ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
		e := setNode(c.writes)
		if _, err := all[c.rnd.IntN(len(all))].now().Propose(ctx, e); err == nil {
			c.acked = append(c.acked, e.Command.(*fsm.SetNode).GetId())
		}
		cancel()
	}
}
