package target

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/freeport"
	"github.com/scope-registry/scope-registry/internal/link"
	"github.com/scope-registry/scope-registry/internal/load"
	"github.com/scope-registry/scope-registry/internal/process"
)

// size is the number of servers.
const size = 3

// grace is for how long a node keeps its old copy of a scope: moves go on all the time, and a scope does not come back before.
const grace = "200ms"

// endTime bounds the end of a process that was seen to have ended.
const endTime = 5 * time.Second

// machine is one process with what it is reached at.
type machine struct {
	*process.Program
	url   string // where clients reach it
	peer  string // of a server: host:port that the others dial, which is a cable
	data  string
	cable *link.Cable
	from  atomic.Int64 // where in its log the last start begins
}

// Local is a [Target] of processes on loopback. Servers reach each other, and nodes the servers, over cables that this
// process lays, so that each direction of each link can be cut or slowed down. It is safe for use by many goroutines.
type Local struct {
	dir      string // of data and logs
	programs load.Programs
	timing   string
	net      *link.Net
	servers  []string
	nodes    []string

	mu       sync.Mutex // guards the rest
	machines map[string]*machine
	cables   []*link.Cable // of nodes
	cut      map[string]bool
}

// NewLocal returns three servers and so many nodes. Data and logs are in dir. It starts nothing.
func NewLocal(dir string, programs load.Programs, nodes int, timing string) *Local {
	l := &Local{dir: dir, programs: programs, timing: timing, net: link.New(), machines: map[string]*machine{}, cut: map[string]bool{}}
	for i := range size {
		l.servers = append(l.servers, fmt.Sprintf("s%d", i+1))
	}
	for i := range nodes {
		l.nodes = append(l.nodes, fmt.Sprintf("d%d", i+1))
	}
	return l
}

// String says what is tested, for people.
func (l *Local) String() string {
	return fmt.Sprintf("processes on this machine, timing %s, %d nodes", l.timing, len(l.nodes))
}

// Servers are the ids of the servers, in order.
func (l *Local) Servers() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.servers)
}

// Nodes are the ids of the data nodes, in order.
func (l *Local) Nodes() []string { return slices.Clone(l.nodes) }

// URL is where clients reach a machine.
func (l *Local) URL(id string) string {
	if m, err := l.machine(id); err == nil {
		return m.url
	}
	return ""
}

func (l *Local) machine(id string) (*machine, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m, ok := l.machines[id]
	if !ok {
		return nil, fmt.Errorf("%q is none of the servers %v and nodes %v", id, l.servers, l.nodes)
	}
	return m, nil
}

// Up starts all servers with empty data, and the nodes.
func (l *Local) Up(ctx context.Context) error {
	for _, id := range l.servers {
		if err := l.lay(id); err != nil {
			return err
		}
	}
	for _, id := range l.servers {
		if err := l.serve(id, l.servers); err != nil {
			return err
		}
	}
	addrs, err := freeport.Addrs(len(l.nodes))
	if err != nil {
		return err
	}
	for i, id := range l.nodes {
		if err := l.store(id, addrs[i]); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// lay makes a server known, with a cable to it.
func (l *Local) lay(id string) error {
	addrs, err := freeport.Addrs(1)
	if err != nil {
		return err
	}
	cable, err := l.net.Lay(link.Server, id, addrs[0])
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.machines[id] = &machine{peer: addrs[0], data: filepath.Join(l.dir, id), cable: cable}
	return nil
}

// serve starts a server for the first time, with a list of servers.
func (l *Local) serve(id string, list []string) error {
	m, err := l.machine(id)
	if err != nil {
		return err
	}
	addrs, err := freeport.Addrs(2)
	if err != nil {
		return err
	}
	var cluster []string
	for _, other := range list {
		o, err := l.machine(other)
		if err != nil {
			return err
		}
		cluster = append(cluster, other+"="+o.cable.Addr())
	}
	m.url = "http://" + addrs[0]
	m.Program = process.New("server "+id, m.data+".log", l.programs.Registry, "serve", "--id", id, "--data-dir", m.data, "--cluster", strings.Join(cluster, ","),
		"--peer", m.peer, "--http", addrs[0], "--resp", addrs[1], "--timing", l.timing)
	return m.Start()
}

// store starts a node for the first time.
func (l *Local) store(id, addr string) error {
	var endpoints []string
	for _, server := range l.servers {
		s, err := l.machine(server)
		if err != nil {
			return err
		}
		c, err := l.net.Lay(link.Named(id), server, strings.TrimPrefix(s.url, "http://"))
		if err != nil {
			return err
		}
		l.mu.Lock()
		l.cables = append(l.cables, c)
		l.mu.Unlock()
		endpoints = append(endpoints, "http://"+c.Addr())
	}
	data := filepath.Join(l.dir, id)
	m := &machine{url: "http://" + addr, data: data, Program: process.New("node "+id, data+".log", l.programs.Store,
		"--node", id, "--listen", addr, "--data", data, "--endpoints", strings.Join(endpoints, ","), "--grace", grace)}
	l.mu.Lock()
	l.machines[id] = m
	l.mu.Unlock()
	return m.Start()
}

// Add starts another server, which waits to be joined, and returns the address that the others reach it at.
func (l *Local) Add(_ context.Context, id string) (peer string, err error) {
	if err := l.lay(id); err != nil {
		return "", err
	}
	l.mu.Lock()
	l.servers = append(l.servers, id)
	list := slices.Clone(l.servers)
	l.mu.Unlock()
	m, err := l.machine(id)
	if err != nil {
		return "", err
	}
	return m.cable.Addr(), l.serve(id, list)
}

// Remove forgets a server that ends by itself and does not come back.
func (l *Local) Remove(id string) error {
	m, err := l.machine(id)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.servers = slices.DeleteFunc(l.servers, func(s string) bool { return s == id })
	delete(l.machines, id)
	l.mu.Unlock()
	if err := l.waited(m); err != nil {
		return errors.Join(err, m.Program.Close(), m.cable.Close())
	}
	return m.cable.Close()
}

// Down ends all processes, nodes first, which say goodbye to the servers. Data and logs are left.
func (l *Local) Down(context.Context) error {
	l.net.Heal()
	l.mu.Lock()
	machines, cables := l.machines, l.cables
	servers, nodes := l.servers, l.nodes
	l.machines, l.cables = map[string]*machine{}, nil
	l.mu.Unlock()
	errs := []error{end(machines, nodes), end(machines, servers)}
	for _, c := range cables {
		errs = append(errs, c.Close())
	}
	for _, m := range machines {
		if m.cable != nil {
			errs = append(errs, m.cable.Close())
		}
	}
	return errors.Join(errs...)
}

// end ends some machines, all at once.
func end(machines map[string]*machine, ids []string) error {
	errs := make([]error, len(ids))
	var all sync.WaitGroup
	for i, id := range ids {
		if m := machines[id]; m != nil && m.Program != nil {
			all.Go(func() { errs[i] = m.Close() })
		}
	}
	all.Wait()
	return errors.Join(errs...)
}

func (l *Local) do(id string, what func(*process.Program) error) error {
	m, err := l.machine(id)
	if err != nil {
		return err
	}
	return what(m.Program)
}

// Kill ends a machine with SIGKILL.
func (l *Local) Kill(_ context.Context, id string) error { return l.do(id, (*process.Program).Kill) }

// Stop ends a machine with SIGTERM.
func (l *Local) Stop(_ context.Context, id string) error { return l.do(id, (*process.Program).Stop) }

// Start starts a machine that has ended.
func (l *Local) Start(_ context.Context, id string) error {
	m, err := l.machine(id)
	if err != nil {
		return err
	}
	if info, err := os.Stat(m.data + ".log"); err == nil {
		m.from.Store(info.Size())
	}
	return m.Start()
}

// Ended lets a machine start again that has ended by itself.
func (l *Local) Ended(id string) error {
	m, err := l.machine(id)
	if err != nil {
		return err
	}
	return l.waited(m)
}

func (l *Local) waited(m *machine) error {
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	_, err := m.Wait(ctx)
	return err
}

// Pause has a machine stand still.
func (l *Local) Pause(_ context.Context, id string) error { return l.do(id, (*process.Program).Pause) }

// Resume ends a pause.
func (l *Local) Resume(_ context.Context, id string) error {
	return l.do(id, (*process.Program).Resume)
}

// ways are the directions between a machine and all servers, both of each.
func (l *Local) ways(id string) (out []link.Way) {
	for _, other := range l.Servers() {
		if other != id {
			w := link.Way{From: id, To: other}
			out = append(out, w, w.Back())
		}
	}
	return out
}

// Cut keeps a machine from the servers, but not from clients.
func (l *Local) Cut(_ context.Context, id string) error { return l.cutting(id, true) }

// Mend ends Cut.
func (l *Local) Mend(_ context.Context, id string) error { return l.cutting(id, false) }

func (l *Local) cutting(id string, cut bool) error {
	if _, err := l.machine(id); err != nil {
		return err
	}
	for _, w := range l.ways(id) {
		l.net.Set("cut "+id, w, link.State{Cut: cut})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut[id] = cut
	return nil
}

// Net is the network between the servers, and from nodes to servers.
func (l *Local) Net() *link.Net { return l.net }

// Disk gives the data directory of a machine that does not run to be changed.
func (l *Local) Disk(_ context.Context, id string, change func(dir string) error) error {
	m, err := l.machine(id)
	if err != nil {
		return err
	}
	if m.Running() {
		return fmt.Errorf("%s runs, and its data cannot be changed", id)
	}
	return change(m.data)
}

// FailPoint has a server's disk do something, until undo.
func (l *Local) FailPoint(id string, what load.Disk, say string) (undo func() error, err error) {
	m, err := l.machine(id)
	if err != nil {
		return nil, err
	}
	name := filepath.Join(m.data, string(what))
	return func() error { return os.Remove(name) }, os.WriteFile(name, []byte(say), 0o600)
}

// Inspect tells what state a machine's process is in.
func (l *Local) Inspect(_ context.Context, id string) (history.Machine, error) {
	m, err := l.machine(id)
	if err != nil {
		return history.Machine{}, err
	}
	out := history.Machine{State: "running", PID: m.Pid()}
	switch {
	case out.PID == 0:
		out.State = "exited"
	case m.Still():
		out.State = "paused"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	out.Node = m.cable == nil
	switch {
	case l.cut[id]:
	case out.Node:
		out.Peer = strings.TrimPrefix(m.url, "http://")
	default:
		out.Peer = m.cable.Addr()
	}
	return out, nil
}

// Log is what a machine has logged since its last start.
func (l *Local) Log(_ context.Context, id string) (string, error) {
	m, err := l.machine(id)
	if err != nil {
		return "", err
	}
	all, err := os.ReadFile(m.data + ".log")
	return string(all[min(int64(len(all)), m.from.Load()):]), err
}

// Logs copies what each machine has logged into dir.
func (l *Local) Logs(_ context.Context, dir string) error {
	logs, err := filepath.Glob(filepath.Join(l.dir, "*.log"))
	if err != nil {
		return err
	}
	for _, name := range logs {
		data, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(name)), data, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
