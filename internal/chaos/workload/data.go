package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/load"

	library "github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/scope"
)

const (
	// dataScopes are the scopes that the nodes own, every flapEvery-th of them with a fallback.
	dataScopes, flapEvery = 10, 2
	// dataMovers is how many of them move at once, at most.
	dataMovers = 5
	// dataWriters is how many clients write to each, with a pause of dataPause between two writes of one.
	dataWriters, dataPause = 2, 40 * time.Millisecond
	// dataWander percent of the writes are tried at any node first.
	dataWander = 5
	// dataWindow bounds what a move may take without writes, and dataBudget the whole move.
	dataWindow, dataBudget = 3 * time.Second, 15 * time.Second
	// moveWait is how long one question for the end of a move waits.
	moveWait = 2 * time.Second
	// openTime bounds the start of the nodes, and the first writes.
	openTime = time.Minute
	// settleTime bounds what may last after the end: a deadline of a session, of a move, the deletion of old copies.
	settleTime = 30 * time.Second
)

// DataConfig is what the work on the data nodes needs.
type DataConfig struct {
	Nodes   []string          // ids, at least two
	Addrs   map[string]string // host:port by id
	Servers []string          // base URLs of the registry
	TLS     library.TLS       // to reach it, if they are https
	Log     *history.Log
	Seed    uint64
}

// Data is clients that write to stores, while operators move the stores' scopes from node to node.
type Data struct {
	cfg    DataConfig
	nodes  *load.Nodes
	client *library.Client
	scopes []string
	stop   chan struct{} // closed when no move shall be started any more
	movers sync.WaitGroup
	load   *load.Load
}

// BeginData waits for the nodes, declares their scopes, and starts clients and operators.
func BeginData(ctx context.Context, cfg DataConfig) (*Data, error) {
	d := &Data{cfg: cfg, nodes: load.NewNodes(cfg.Addrs), client: library.New(cfg.Servers, library.WithActor("chaos"), library.WithTLS(cfg.TLS)), stop: make(chan struct{})}
	for i := range dataScopes {
		d.scopes = append(d.scopes, fmt.Sprintf("data:%02d:", i))
	}
	if err := d.open(ctx); err != nil {
		d.Close()
		return nil, fmt.Errorf("the nodes did not begin to serve: %w", err)
	}
	d.load = load.Begin(load.Config{Nodes: d.nodes, Owners: cfg.Nodes, Scopes: d.scopes, Writers: dataWriters, Wander: dataWander, Pause: dataPause, Seed: cfg.Seed, Seen: cfg.Log.Write})
	for i := range dataMovers {
		rng := rand.New(rand.NewPCG(cfg.Seed, uint64(2000+i)))
		d.movers.Go(func() { d.move(ctx, i, rng) })
	}
	return d, nil
}

func (d *Data) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	if err := d.ready(ctx); err != nil {
		return err
	}
	for i, prefix := range d.scopes {
		decl := api.Declare{Writer: d.cfg.Nodes[i%len(d.cfg.Nodes)]}
		if d.flaps(prefix) {
			decl.Fallback = d.cfg.Nodes[(i+1)%len(d.cfg.Nodes)]
		}
		if _, err := d.client.Declare(ctx, scope.Prefix(prefix), decl, 0); err != nil {
			return err
		}
	}
	return nil
}

// flaps says whether a scope has a fallback, by which its owner has a lease, and is taken over when that is not renewed.
func (d *Data) flaps(prefix string) bool { return slices.Index(d.scopes, prefix)%flapEvery == 0 }

// ready waits until each node says that its session is open.
func (d *Data) ready(ctx context.Context) error {
	for _, node := range d.cfg.Nodes {
		if err := settled(ctx, func() error { return d.nodes.Ready(ctx, node) }); err != nil {
			return err
		}
	}
	return nil
}

// settled asks until the answer is nil, or ctx ends: then it returns the last answer that was no consequence of that.
func settled(ctx context.Context, ask func() error) error {
	var last error
	for {
		err := ask()
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		if !pause(ctx, nil, restPoll) {
			return last
		}
	}
}

// move moves one scope after the other, of those that are this operator's, and gives some moves up.
func (d *Data) move(ctx context.Context, operator int, rng *rand.Rand) {
	for n := 1; pause(ctx, d.stop, time.Duration(rng.Int64N(int64(100*time.Millisecond)))); n++ {
		prefix := d.scopes[operator+dataMovers*rng.IntN(dataScopes/dataMovers)]
		sc, err := d.client.Scope(ctx, scope.Prefix(prefix))
		if err != nil || sc.Move != "" {
			continue
		}
		to := sc.Writer // of a scope that was taken over: it goes back as soon as that node lives
		if to == sc.Owner {
			to = d.cfg.Nodes[rng.IntN(len(d.cfg.Nodes))]
		}
		if to == sc.Owner {
			continue
		}
		if d.flaps(prefix) && sc.Fallback == "" { // it has moved there, and so has lost it
			_, _ = d.client.Declare(ctx, scope.Prefix(prefix), api.Declare{Writer: sc.Owner, Fallback: to}, sc.Epoch) // the node may still have an old copy
			continue
		}
		m, err := d.client.StartMove(ctx, api.StartMove{ID: fmt.Sprintf("ship-%d-%d", operator, n), Prefix: prefix, From: sc.Owner, To: to, Mode: "agent",
			PreCopy: rng.IntN(2) == 0, WindowMS: uint64(dataWindow.Milliseconds()), TimeoutMS: uint64(dataBudget.Milliseconds())})
		if err != nil {
			continue // the history has what the log has
		}
		if rng.IntN(12) == 0 {
			pause(ctx, d.stop, time.Duration(rng.Int64N(int64(30*time.Millisecond))))
			_, _ = d.client.Abort(ctx, m.ID, "chaos run") // it may have ended
		}
		d.await(ctx, m.ID)
	}
}

// await waits until a move has ended, for as long as moves are started.
func (d *Data) await(ctx context.Context, id string) {
	for pause(ctx, d.stop, 0) {
		m, err := d.client.Move(ctx, id, moveWait)
		if err == nil && (m.Phase == "done" || m.Phase == "aborted") {
			return
		}
		if err != nil && !pause(ctx, d.stop, retryPause) {
			return
		}
	}
}

// Owner is who owns one of the scopes, by a linearizable read, and where it moves to, "" if it does not.
func (d *Data) Owner(ctx context.Context, i int) (owner, to string, err error) {
	sc, err := d.client.Scope(ctx, scope.Prefix(d.scopes[i%len(d.scopes)]))
	return sc.Owner, sc.Target, err
}

// Stop ends the moves; writes go on.
func (d *Data) Stop() {
	close(d.stop)
	d.movers.Wait()
}

// Finish waits until nothing is under way any more, and each scope takes writes, ends the writers, and records what each
// node has. All faults are over, and Stop was called.
func (d *Data) Finish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	calm := d.ready(ctx)
	if calm != nil {
		calm = fmt.Errorf("a node is not ready %v after all faults were over: %w", settleTime, calm)
	} else if calm = settled(ctx, func() error { return d.calm(ctx) }); calm != nil {
		calm = fmt.Errorf("%v after all faults were over: %w", settleTime, calm)
	}
	d.load.Drain()
	d.load = nil
	if calm != nil {
		return calm
	}
	return d.dumps(ctx)
}

func (d *Data) calm(ctx context.Context) error {
	for _, prefix := range d.scopes {
		sc, err := d.client.Scope(ctx, scope.Prefix(prefix))
		switch {
		case err != nil:
			return err
		case sc.Move != "":
			return fmt.Errorf("move %s of %q has not ended", sc.Move, prefix)
		case len(sc.Cleanups) > 0:
			return fmt.Errorf("%s has not deleted its copy of %q", sc.Cleanups[0].Node, prefix)
		}
	}
	for _, node := range d.cfg.Nodes {
		staged, err := d.nodes.Staged(ctx, node)
		if err == nil && len(staged) > 0 {
			err = fmt.Errorf("%s has slices of the moves %s", node, strings.Join(staged, ", "))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// dumps records what every node has of every scope.
func (d *Data) dumps(ctx context.Context) error {
	for _, prefix := range d.scopes {
		sc, err := d.client.Scope(ctx, scope.Prefix(prefix))
		if err != nil {
			return err
		}
		for _, node := range d.cfg.Nodes {
			records, err := d.nodes.Dump(ctx, node, prefix)
			if err != nil {
				return err
			}
			owner := node == sc.Owner
			if !owner && len(records) == 0 {
				continue
			}
			d.cfg.Log.Dump(history.Dump{Node: node, Prefix: prefix, Owner: owner, Spare: node == sc.Fallback || node == sc.Writer, Epoch: sc.Epoch, Records: records})
		}
	}
	return nil
}

// Close ends everything. Finish may not have been called.
func (d *Data) Close() {
	if d.load != nil {
		d.load.Stop()
	}
	d.client.Close()
	d.nodes.Close()
}
