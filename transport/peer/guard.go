package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

const (
	// maxTermJump is by how much a term in a request or an answer may be above this server's own. Terms grow by one with
	// each election, and a server that missed a million of them is none that comes back. A term near the largest number
	// would leave no room for another election, for good.
	maxTermJump = 1_000_000
	// maxConfirming bounds the requests of a transfer that wait for the leader's word, one of each server and room.
	maxConfirming = 16
	// confirmWithin bounds the wait for that word. Raft gives up a transfer after an election timeout, 1 s at most.
	confirmWithin = time.Second
	// handingOver is how long a leader stands by its word to a server that it should take over: long enough for the
	// election that follows, in which the others ask for it.
	handingOver = 3 * time.Second
)

// Transport is what raft needs of a transport, with all that it asks for besides raft.Transport.
type Transport interface {
	raft.Transport
	raft.WithPreVote
	raft.WithClose
}

// Facts are what a guard has to know of this server's raft. The functions are called by several goroutines at once.
type Facts struct {
	// Term is the current term.
	Term func() uint64
	// Leader is the server that is followed, or this one; "" if none is known.
	Leader func() (addr, id string)
	// Self is this server's id.
	Self string
	// Confirm asks the leader at an address whether it is handing over to a server, see [Guard.HandsTo].
	Confirm func(ctx context.Context, leader, candidate string) bool
}

// Guard stands between the port and raft, and drops what would stop the cluster, end the process or depose the leader
// although no server that works sends it. What it drops is answered with an error, counted and logged. A request of a
// transfer of leadership counts only with the leader's own word; raft never waits for that.
//
// It implements Transport. Nothing passes before Start.
type Guard struct {
	Transport
	out     chan raft.RPC
	warning warner
	slots   chan struct{} // a token per request that waits for the leader's word

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex // guards the rest
	closing   bool
	facts     Facts
	heartbeat func(raft.RPC)
	heir      string // to whom leadership was handed last
	handed    time.Time
	dropped   uint64
}

// NewGuard makes a guard of a transport, which it closes. log may be nil.
func NewGuard(inner Transport, log hclog.Logger) *Guard {
	if log == nil {
		log = hclog.NewNullLogger()
	}
	g := &Guard{Transport: inner, out: make(chan raft.RPC), warning: warner{log: log}, slots: make(chan struct{}, maxConfirming)}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	return g
}

// Start lets requests pass. It is called once raft runs, which all of Facts is about.
func (g *Guard) Start(f Facts) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closing {
		return
	}
	g.facts = f
	if handle := g.heartbeat; handle != nil {
		// Transports hand heartbeats over at once, past their Consumer.
		g.Transport.SetHeartbeatHandler(func(rpc raft.RPC) {
			if g.passes(&rpc) {
				handle(rpc)
			}
		})
	}
	g.wg.Go(g.run)
}

// Close implements raft.WithClose.
func (g *Guard) Close() error {
	g.mu.Lock()
	g.closing = true
	g.mu.Unlock()
	g.cancel()
	err := g.Transport.Close()
	g.wg.Wait()
	return err
}

// Consumer implements raft.Transport.
func (g *Guard) Consumer() <-chan raft.RPC { return g.out }

// SetHeartbeatHandler implements raft.Transport.
func (g *Guard) SetHeartbeatHandler(handle func(raft.RPC)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.heartbeat = handle
}

// Dropped is how many requests and answers were dropped.
func (g *Guard) Dropped() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.dropped
}

func (g *Guard) run() {
	for {
		select {
		case rpc := <-g.Transport.Consumer():
			if !g.passes(&rpc) {
				continue
			}
			if transfers(rpc) {
				g.confirm(rpc)
				continue
			}
			g.hand(rpc)
		case <-g.ctx.Done():
			return
		}
	}
}

// hand gives a request to raft, which may be busy, and never takes another after its end.
func (g *Guard) hand(rpc raft.RPC) {
	select {
	case g.out <- rpc:
	case <-g.ctx.Done():
	}
}

// passes is false for a request that was answered here.
func (g *Guard) passes(rpc *raft.RPC) bool {
	err := judge(rpc.Command, g.facts)
	if err == nil {
		return true
	}
	g.drop("dropped a request to raft", err, "server", senderOf(rpc.Command))
	if snapshot := rpc.Reader; snapshot != nil { // which has to be read first, or would be taken for the next request
		refused := *rpc
		g.wg.Go(func() {
			_, _ = io.Copy(io.Discard, snapshot)
			refused.Respond(nil, err)
		})
		return false
	}
	rpc.Respond(nil, err)
	return false
}

func (g *Guard) drop(what string, err error, args ...any) {
	g.mu.Lock()
	g.dropped++
	n := g.dropped
	g.mu.Unlock()
	g.warning.warn(what, append(args, "error", err, "dropped", n)...)
}

// errNoTransfer is the answer to a server that was told to take over, and not by the leader.
var errNoTransfer = errors.New("the leader that this server follows is not handing over to it")

// transfers is whether a request asks for what only a leader that hands over may have others do.
func transfers(rpc raft.RPC) bool {
	switch cmd := rpc.Command.(type) {
	case *raft.RequestVoteRequest:
		return cmd.LeadershipTransfer
	case *raft.TimeoutNowRequest:
		return true
	}
	return false
}

// confirm lets a request of a transfer through once the leader has confirmed it, beside those that come after it. A vote
// that is not confirmed is asked for without the transfer, and raft's own rule applies: none while there is a leader.
func (g *Guard) confirm(rpc raft.RPC) {
	candidate := g.facts.Self
	if vote, ok := rpc.Command.(*raft.RequestVoteRequest); ok {
		candidate = string(vote.ID)
	}
	settle := func(confirmed bool) {
		if vote, ok := rpc.Command.(*raft.RequestVoteRequest); ok && !confirmed {
			g.drop("took a vote without the transfer of leadership that it came with", errNoTransfer, "server", shown(candidate))
			plain := *vote // which others may have been sent too, in memory
			plain.LeadershipTransfer = false
			rpc.Command = &plain
		} else if !confirmed {
			g.drop("dropped the word to take over", errNoTransfer, "server", senderOf(rpc.Command))
			rpc.Respond(nil, errNoTransfer)
			return
		}
		g.hand(rpc)
	}
	addr, leader := g.facts.Leader()
	switch leader {
	case g.facts.Self:
		settle(g.HandsTo(candidate))
		return
	case "":
		settle(false)
		return
	}
	select {
	case g.slots <- struct{}{}:
	default:
		settle(false)
		return
	}
	g.wg.Go(func() {
		defer func() { <-g.slots }()
		ctx, cancel := context.WithTimeout(g.ctx, confirmWithin)
		defer cancel()
		settle(g.facts.Confirm(ctx, addr, candidate))
	})
}

// HandsTo is whether this server has told another one to take over, no longer ago than the election that follows takes.
func (g *Guard) HandsTo(candidate string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return candidate != "" && g.heir == candidate && time.Since(g.handed) < handingOver
}

// TimeoutNow implements raft.Transport. Raft sends it as the leader only, and it is the one place where it says to whom it
// hands over.
func (g *Guard) TimeoutNow(id raft.ServerID, target raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	g.mu.Lock()
	g.heir, g.handed = string(id), time.Now()
	g.mu.Unlock()
	return g.Transport.TimeoutNow(id, target, args, resp)
}

// AppendEntries implements raft.Transport.
func (g *Guard) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	err := g.Transport.AppendEntries(id, target, args, resp)
	return g.believe(id, err, args.Term, resp.Term)
}

// RequestVote implements raft.Transport.
func (g *Guard) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	err := g.Transport.RequestVote(id, target, args, resp)
	return g.believe(id, err, args.Term, resp.Term)
}

// RequestPreVote implements raft.WithPreVote.
func (g *Guard) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	err := g.Transport.RequestPreVote(id, target, args, resp)
	return g.believe(id, err, args.Term, resp.Term)
}

// InstallSnapshot implements raft.Transport.
func (g *Guard) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	err := g.Transport.InstallSnapshot(id, target, args, resp, data)
	return g.believe(id, err, args.Term, resp.Term)
}

// believe refuses an answer with a term that this server would take over and never get past.
func (g *Guard) believe(id raft.ServerID, err error, ours, theirs uint64) error {
	if err != nil {
		return err
	}
	if err := termWithin(theirs, ours); err != nil {
		g.drop("dropped an answer to raft", err, "server", id)
		return fmt.Errorf("answer of server %q: %w", id, err)
	}
	return nil
}
