package target

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/internal/chaos/history"
)

// What the compose file is expected to have: the service registry-N is the
// server sN, servers talk on the network peers, and ports are set by the
// environment.
const (
	size     = 3
	service  = "registry-"
	peers    = "peers"
	httpPort = "SCOPE_REGISTRY_HTTP_%d=%s"
	respPort = "SCOPE_REGISTRY_RESP_%d=%s"
	// The service store-N is the data node dN; it reaches the servers on the network nodes.
	storeService = "store-"
	nodesNetwork = "nodes"
	storePort    = "SCOPE_REGISTRY_STORE_%d=%s"
)

// commandTime bounds one docker command. Starting containers takes seconds on a
// machine that is busy, stopping one up to its grace period.
const commandTime = time.Minute

// call is one run of a program. Its output is what it prints, errors included if both is set.
type call struct {
	args []string // the first is the program
	env  []string // added to that of this process
	in   io.Reader
	both bool
}

// command runs a program and returns what it printed.
type command func(context.Context, call) ([]byte, error)

// Docker is a [Target] of containers. Its methods may be called by many
// goroutines, each about machines of its own.
type Docker struct {
	run     command
	compose []string // the command, with project and file
	project string
	version string
	env     []string
	ids     []string
	nodes   []string
	urls    map[string]string
	work    string     // directory for copies of data
	mu      sync.Mutex // guards the rest
	// aliases are the names a server that is cut off had among the others:
	// connecting it again does not bring them back.
	aliases map[string][]string
	logged  map[string][]byte // by containers of a machine that are gone
}

// NewDocker returns the cluster of compose files as a project of its own, which
// shares neither containers nor data nor ports with others of the same files, with
// so many data nodes. It starts nothing. work is a directory for copies of their data.
// The error says what is missing when there is no docker.
func NewDocker(ctx context.Context, files []string, project string, nodes int, work string) (*Docker, error) {
	return newDocker(ctx, files, project, nodes, work, runCommand)
}

func newDocker(ctx context.Context, files []string, project string, nodes int, work string, run command) (*Docker, error) {
	d := &Docker{run: run, project: project, work: work, urls: map[string]string{}, aliases: map[string][]string{}, logged: map[string][]byte{}}
	engine, err := d.command(ctx, "docker", "version", "--format", "{{.Server.Version}}")
	if err != nil {
		return nil, fmt.Errorf("no docker engine answers: %w; install one (Debian: apt-get install docker.io docker-compose), start it, "+
			"and see that this user may use it", err)
	}
	compose, err := d.findCompose(ctx)
	if err != nil {
		return nil, err
	}
	d.version = fmt.Sprintf("docker %s, %s", strings.TrimSpace(string(engine)), strings.Join(compose, " "))
	d.compose = slices.Concat(compose, []string{"-p", project})
	for _, file := range files {
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("compose file: %w", err)
		}
		d.compose = append(d.compose, "-f", file)
	}
	ports, err := freePorts(2*size + nodes)
	if err != nil {
		return nil, err
	}
	for i := range size {
		id := fmt.Sprintf("s%d", i+1)
		d.ids = append(d.ids, id)
		d.urls[id] = "https://127.0.0.1:" + ports[2*i]
		d.env = append(d.env, fmt.Sprintf(httpPort, i+1, ports[2*i]), fmt.Sprintf(respPort, i+1, ports[2*i+1]))
	}
	for i, port := range ports[2*size:] {
		id := fmt.Sprintf("d%d", i+1)
		d.nodes = append(d.nodes, id)
		d.urls[id] = "http://127.0.0.1:" + port
		d.env = append(d.env, fmt.Sprintf(storePort, i+1, port))
	}
	return d, nil
}

// findCompose prefers Compose v2, the plugin, to docker-compose.
func (d *Docker) findCompose(ctx context.Context) ([]string, error) {
	var errs []error
	for _, c := range [][]string{{"docker", "compose"}, {"docker-compose"}} {
		_, err := d.command(ctx, append(slices.Clone(c), "version")...)
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("neither docker compose nor docker-compose works: %w; on Debian: apt-get install docker-compose", errors.Join(errs...))
}

// freePorts returns ports that nobody listened on a moment ago. All are held
// until the last is known, so that they differ.
func freePorts(n int) ([]string, error) {
	var ports []string
	var held []net.Listener
	defer func() {
		for _, l := range held {
			_ = l.Close() // never accepted anything
		}
	}()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("no free port on 127.0.0.1: %w", err)
		}
		held = append(held, l)
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	return ports, nil
}

func runCommand(ctx context.Context, c call) ([]byte, error) {
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Env = append(os.Environ(), c.env...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.in, &out, &errs
	if c.both {
		cmd.Stderr = &out
	}
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(c.args, " "), err, bytes.TrimSpace(errs.Bytes()))
	}
	return out.Bytes(), nil
}

func (d *Docker) call(ctx context.Context, c call) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	c.env = d.env
	return d.run(ctx, c)
}

func (d *Docker) command(ctx context.Context, args ...string) ([]byte, error) {
	return d.call(ctx, call{args: args})
}

func (d *Docker) docker(ctx context.Context, args ...string) error {
	_, err := d.command(ctx, append([]string{"docker"}, args...)...)
	return err
}

func (d *Docker) composed(ctx context.Context, args ...string) ([]byte, error) {
	return d.command(ctx, slices.Concat(d.compose, args)...)
}

// String says what is tested, for people.
func (d *Docker) String() string {
	return fmt.Sprintf("containers of project %s (%s)", d.project, d.version)
}

// Servers are the ids of the servers, in order.
func (d *Docker) Servers() []string { return slices.Clone(d.ids) }

// Nodes are the ids of the data nodes, in order.
func (d *Docker) Nodes() []string { return slices.Clone(d.nodes) }

// URL is where clients reach a server.
func (d *Docker) URL(server string) string { return d.urls[server] }

// Up removes what an earlier run of this project left, gives all servers and nodes certificates, and starts them.
func (d *Docker) Up(ctx context.Context) error {
	if err := d.Down(ctx); err != nil {
		return err
	}
	all := slices.Concat(d.ids, d.nodes)
	var services []string
	for _, id := range all {
		services = append(services, serviceOf(id))
	}
	if _, err := d.composed(ctx, append([]string{"up", "--no-start", "--remove-orphans"}, services...)...); err != nil {
		return fmt.Errorf("%w (is the image there? make image builds it)", err)
	}
	if err := d.certify(ctx, all); err != nil {
		return err
	}
	_, err := d.composed(ctx, append([]string{"up", "-d"}, services...)...)
	return err
}

// Down ends all servers and removes their volumes and networks.
func (d *Docker) Down(ctx context.Context) error {
	_, err := d.composed(ctx, "down", "--volumes", "--remove-orphans", "--timeout", "1")
	return err
}

var errNoContainer = errors.New("no container")

// container is the id of a server's container. Compose's labels find it faster
// than compose itself does.
func (d *Docker) container(ctx context.Context, server string) (string, error) {
	if _, ok := d.urls[server]; !ok {
		return "", fmt.Errorf("%q is none of the servers %v and nodes %v", server, d.ids, d.nodes)
	}
	out, err := d.command(ctx, "docker", "ps", "--all", "--quiet", "--no-trunc", "--filter", "label=com.docker.compose.project="+d.project,
		"--filter", "label=com.docker.compose.service="+serviceOf(server))
	if err != nil {
		return "", err
	}
	ids := strings.Fields(string(out))
	if len(ids) == 0 {
		return "", fmt.Errorf("%s has %w in project %s", server, errNoContainer, d.project)
	}
	if len(ids) != 1 {
		return "", fmt.Errorf("server %s has %d containers in project %s, not one", server, len(ids), d.project)
	}
	return ids[0], nil
}

func serviceOf(id string) string {
	if n, ok := strings.CutPrefix(id, "d"); ok {
		return storeService + n
	}
	return service + strings.TrimPrefix(id, "s")
}

// to gives docker a command about one server's container.
func (d *Docker) to(ctx context.Context, server string, args ...string) error {
	id, err := d.container(ctx, server)
	if err != nil {
		return err
	}
	return d.docker(ctx, append(args, id)...)
}

// Kill ends a server with SIGKILL.
func (d *Docker) Kill(ctx context.Context, server string) error {
	return d.to(ctx, server, "kill", "--signal", "KILL")
}

// Stop ends a server with SIGTERM.
func (d *Docker) Stop(ctx context.Context, server string) error { return d.to(ctx, server, "stop") }

// Start starts a server that has ended.
func (d *Docker) Start(ctx context.Context, server string) error { return d.to(ctx, server, "start") }

// Pause freezes all processes of a server. On a busy machine runc gives up now and
// then, and thaws those that were frozen: then it is asked again.
func (d *Docker) Pause(ctx context.Context, server string) (err error) {
	const tries = 5
	for range tries {
		if err = d.to(ctx, server, "pause"); err == nil || !strings.Contains(err.Error(), "unable to freeze") {
			return err
		}
	}
	return err
}

// Resume ends a pause.
func (d *Docker) Resume(ctx context.Context, server string) error {
	return d.to(ctx, server, "unpause")
}

// Readdresses says that a container may come back with another address.
func (d *Docker) Readdresses() bool { return true }

// network is where a server reaches the others, and a node the servers.
func (d *Docker) network(id string) string {
	if slices.Contains(d.nodes, id) {
		return d.project + "_" + nodesNetwork
	}
	return d.project + "_" + peers
}

// Cut takes a server out of the network that servers talk on, or a node out of that
// on which it reaches them.
func (d *Docker) Cut(ctx context.Context, server string) error {
	c, err := d.look(ctx, server)
	if err != nil {
		return err
	}
	on, ok := c.NetworkSettings.Networks[d.network(server)]
	if !ok {
		return fmt.Errorf("%s is not in the network %s", server, d.network(server))
	}
	d.mu.Lock()
	d.aliases[server] = on.Aliases
	d.mu.Unlock()
	return d.to(ctx, server, "network", "disconnect", d.network(server))
}

// Mend brings it back into the network, under the names it had there.
func (d *Docker) Mend(ctx context.Context, server string) error {
	id, err := d.container(ctx, server)
	if err != nil {
		return err
	}
	d.mu.Lock()
	aliases := d.aliases[server]
	d.mu.Unlock()
	return d.connect(ctx, id, d.network(server), aliases)
}

func (d *Docker) connect(ctx context.Context, container, network string, aliases []string) error {
	args := []string{"network", "connect"}
	for _, a := range aliases {
		args = append(args, "--alias", a)
	}
	return d.docker(ctx, append(args, network, container)...)
}

// inspected is what this package reads of `docker inspect`.
type inspected struct {
	ID    string
	State struct {
		Status    string
		Pid       int
		StartedAt string
	}
	Config     struct{ User string }
	HostConfig struct {
		ReadonlyRootfs       bool
		Privileged           bool
		CapAdd, CapDrop      []string
		SecurityOpt          []string
		Memory, PidsLimit    int64
		NetworkMode, PidMode string
	}
	Mounts          []struct{ Name, Destination string }
	NetworkSettings struct {
		Networks map[string]struct {
			IPAddress string
			Aliases   []string
		}
	}
}

func (d *Docker) look(ctx context.Context, server string) (inspected, error) {
	id, err := d.container(ctx, server)
	if err != nil {
		return inspected{}, err
	}
	out, err := d.command(ctx, "docker", "inspect", id)
	if err != nil {
		return inspected{}, err
	}
	var all []inspected
	if err := json.Unmarshal(out, &all); err != nil || len(all) != 1 {
		return inspected{}, fmt.Errorf("docker inspect of server %s: %d containers (%w)", server, len(all), err)
	}
	return all[0], nil
}

// Inspect tells state, process and address of a server's container.
func (d *Docker) Inspect(ctx context.Context, server string) (history.Machine, error) {
	c, err := d.look(ctx, server)
	if err != nil {
		return history.Machine{}, err
	}
	return history.Machine{State: c.State.Status, PID: c.State.Pid, Peer: c.NetworkSettings.Networks[d.network(server)].IPAddress,
		Node: slices.Contains(d.nodes, server)}, nil
}
