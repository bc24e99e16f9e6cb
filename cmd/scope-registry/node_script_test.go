package main

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
)

// nodes are the processes that speak for nodes in a script: no verb does.
type nodes struct {
	cancel  context.CancelFunc
	ctx     context.Context
	running sync.WaitGroup
	clients []*client.Client
	ends    map[string]context.CancelFunc // by node: its process ends without a word
}

func (n *nodes) close() {
	if n.cancel != nil {
		n.cancel()
	}
	n.running.Wait()
	for _, cl := range n.clients {
		cl.Close()
	}
}

// dial makes a client of the script's servers.
func (b *bench) dial(ts *testscript.TestScript) *client.Client {
	if b.nodes.cancel == nil {
		b.nodes.ctx, b.nodes.cancel = context.WithCancel(context.Background())
		b.nodes.ends = map[string]context.CancelFunc{}
	}
	cl := client.New(strings.Split(ts.Getenv(envEndpoints), ","))
	b.nodes.clients = append(b.nodes.clients, cl)
	return cl
}

// sessionID is what the session of a node is called in scripts.
func sessionID(node string) string { return "session-" + node }

func (b *bench) session(ts *testscript.TestScript, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: session NODE")
	}
	cl, node := b.dial(ts), args[0]
	now, err := cl.Cluster(b.nodes.ctx, false)
	ts.Check(err)
	opened, err := cl.OpenSession(b.nodes.ctx, node, client.OpenSession{Identity: "disk-" + node, Session: sessionID(node), Token: strings.Repeat("t", 32),
		Incarnation: now.Incarnation, Tag: now.Tag, View: cl.Index()})
	ts.Check(err)
	ctx, end := context.WithCancel(b.nodes.ctx)
	b.nodes.ends[node] = end
	b.nodes.running.Go(func() {
		t := time.NewTicker(time.Duration(opened.RenewMS) * time.Millisecond)
		defer t.Stop()
		for {
			_, err := cl.Renew(ctx, client.Renewal{Session: opened.Session, View: cl.Index()})
			if ctx.Err() != nil || errors.Is(err, &api.Error{Code: api.SessionExpired}) {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
		}
	})
}

// any is a server of the script.
func (b *bench) any() *server {
	for _, s := range b.servers {
		return s
	}
	return nil
}

func (b *bench) say(ts *testscript.TestScript, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: say NODE VERB MOVE [KEYS BYTES [KEYS_LEFT BYTES_LEFT]]")
	}
	cl, ctx, session, move := b.dial(ts), b.nodes.ctx, sessionID(args[0]), args[2]
	var n [4]uint64
	for i, text := range args[3:] {
		var err error
		n[i], err = strconv.ParseUint(text, 10, 64)
		ts.Check(err)
	}
	var err error
	switch args[1] {
	case "report":
		err = cl.Report(ctx, client.Report{Move: move, Session: session, Keys: n[0], Bytes: n[1], KeysLeft: n[2], BytesLeft: n[3]})
	case "shipped":
		_, err = cl.ShippedAs(ctx, session, move, &api.Manifest{Keys: n[0], Bytes: n[1]})
	case "ready":
		_, err = cl.ReadyAs(ctx, session, move, &api.Manifest{Keys: n[0], Bytes: n[1]})
	case "abort":
		_, err = cl.AbortAs(ctx, session, move, "disk full")
	case "cleaned":
		var m api.Move
		m, err = cl.Move(ctx, move, 0)
		ts.Check(err)
		_, err = cl.CleanedAs(ctx, session, client.Cleanup{Node: m.From, Prefix: m.Prefix, Epoch: m.Epoch, Move: m.ID})
	default:
		ts.Fatalf("%s is no word of a node", args[1])
	}
	ts.Check(err)
}

func (b *bench) expire(ts *testscript.TestScript, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: expire NODE")
	}
	b.nodes.ends[args[0]]()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, s := range b.servers {
		for live := true; live; {
			st := s.reg.State()
			if _, live = st.Holder(sessionID(args[0])); live {
				ts.Check(s.reg.WaitIndex(ctx, st.Index()+1))
			}
		}
	}
}
