package gates

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/crash"
	"github.com/scope-registry/scope-registry/internal/freeport"
	"github.com/scope-registry/scope-registry/internal/process"
)

// Processes is a [Deployment] of real processes on loopback.
type Processes struct {
	bin, redis, dir string
	servers         *crash.Cluster
	nodes           []Node
	programs        map[string]*process.Program // of nodes
}

// NewProcesses returns a deployment of bin, the program under test, and redis, a redis-server or one like it; "" is the one of
// the PATH. Data and logs are in dir, and stay there.
func NewProcesses(bin, redis, dir string) (*Processes, error) {
	if redis == "" {
		var err error
		if redis, err = findRedis(); err != nil {
			return nil, err
		}
	}
	return &Processes{bin: bin, redis: redis, dir: dir, programs: map[string]*process.Program{}}, nil
}

// findRedis is the path of a Redis server; the error says how to get one.
func findRedis() (string, error) {
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("neither redis-server nor valkey-server is on the PATH; on Debian: apt-get install redis-server")
}

// String says what runs, for people.
func (p *Processes) String() string { return "processes on this machine, of " + p.redis }

// Up starts all of it.
func (p *Processes) Up(context.Context) error {
	var err error
	if p.servers, err = crash.Open(crash.Config{Bin: p.bin, Dir: filepath.Join(p.dir, "servers")}); err != nil {
		return err
	}
	for _, id := range NodeIDs() {
		if err := p.addNode(id); err != nil {
			return err
		}
	}
	return nil
}

// addNode starts a Redis server that keeps what it has acknowledged, and its gate.
func (p *Processes) addNode(id string) error {
	addrs, err := freeport.Addrs(2)
	if err != nil {
		return err
	}
	gate, store, dir := addrs[0], addrs[1], filepath.Join(p.dir, id)
	if err := os.MkdirAll(filepath.Join(dir, "redis"), 0o700); err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(store)
	if err != nil {
		return err
	}
	p.nodes = append(p.nodes, Node{ID: id, Addr: gate, Gate: gate, Store: store})
	p.programs[StoreOf(id)] = process.New(StoreOf(id), dir+"-redis.log", p.redis, "--port", port, "--bind", "127.0.0.1", "--dir", filepath.Join(dir, "redis"),
		"--save", "", "--appendonly", "yes", "--appendfsync", "always")
	p.programs[GateOf(id)] = process.New(GateOf(id), dir+"-gate.log", p.bin, "gate", "--node", id, "--listen", gate, "--upstream", store,
		"--data-dir", filepath.Join(dir, "gate"), "--endpoints", p.servers.Endpoints(), "--grace", Grace.String())
	return errors.Join(p.programs[StoreOf(id)].Start(), p.programs[GateOf(id)].Start())
}

// Client is a client of all servers.
func (p *Processes) Client() *client.Client {
	return client.New(strings.Split(p.servers.Endpoints(), ","), client.WithActor(actor))
}

// Nodes are the nodes, in order.
func (p *Processes) Nodes() []Node { return p.nodes }

// Kill ends a process with SIGKILL.
func (p *Processes) Kill(_ context.Context, machine string) error {
	return p.do(machine, (*process.Program).Kill)
}

// Start starts one that was ended.
func (p *Processes) Start(_ context.Context, machine string) error {
	return p.do(machine, (*process.Program).Start)
}

// Life is the id of its process.
func (p *Processes) Life(_ context.Context, machine string) (life string, err error) {
	err = p.do(machine, func(one *process.Program) error {
		life = fmt.Sprintf("process %d", one.Pid())
		return nil
	})
	return life, err
}

func (p *Processes) do(machine string, what func(*process.Program) error) error {
	if one, ok := p.programs[machine]; ok {
		return what(one)
	}
	for _, id := range p.servers.IDs() {
		if id == machine {
			return what(p.servers.Program(id))
		}
	}
	return fmt.Errorf("%q is neither a server nor of a node", machine)
}

// all are the processes: gates before their stores, and these before the servers, as they end.
func (p *Processes) all() (all []*process.Program) {
	for _, n := range p.nodes {
		all = append(all, p.programs[GateOf(n.ID)], p.programs[StoreOf(n.ID)])
	}
	if p.servers != nil {
		for _, id := range p.servers.IDs() {
			all = append(all, p.servers.Program(id))
		}
	}
	return all
}

// Running is an error when a process has ended that nobody ended.
func (p *Processes) Running(context.Context) error {
	var err error
	for _, one := range p.all() {
		err = errors.Join(err, one.Crashed())
	}
	return err
}

// Logs are the ends of what all have printed.
func (p *Processes) Logs(context.Context) string {
	var out strings.Builder
	for _, one := range p.all() {
		fmt.Fprintf(&out, "log of %s:\n%s\n", one.Name(), one.Logs())
	}
	return out.String()
}

// Close ends all processes.
func (p *Processes) Close() error {
	var err error
	for _, n := range p.nodes {
		err = errors.Join(err, p.programs[GateOf(n.ID)].Close(), p.programs[StoreOf(n.ID)].Close())
	}
	if p.servers != nil {
		err = errors.Join(err, p.servers.Close())
	}
	return err
}
