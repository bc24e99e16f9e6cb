// Package containers runs the services of compose files as a project of its own, ends them without notice, starts them again,
// gives each its certificate, and keeps what they print.
package containers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/certs"
	"github.com/scope-registry/scope-registry/internal/freeport"
)

// Machine is a service of the compose files, of which there is one container.
type Machine struct {
	ID      string      // what it is called here
	Service string      // what the compose files call it
	Ports   []string    // the variables by which they set the ports that it publishes on loopback; Addr is that of the first
	Cert    *certs.Wish // the certificate that it finds in /tls, with its key and that of the authority; nil is none
}

// Config is what a project is made of.
type Config struct {
	Files    []string // compose files
	Project  string   // its name: it shares neither containers nor data nor ports with other projects of the same files
	Work     string   // directory for certificates and for copies of data
	Machines []Machine
	Env      []string // NAME=value, what else the files take from the environment
	// Run runs a program and returns what it printed; nil is to run it on this machine.
	Run func(context.Context, Call) ([]byte, error)
}

// Project is containers of compose files. Its methods may be called by many goroutines, each about machines of its own.
type Project struct {
	cfg     Config
	compose []string // the command, with project and files
	version string
	addrs   map[string]string // where the first port of a machine is published, host:port
	mu      sync.Mutex        // guards the rest
	ours    bool              // what the project has now is of this run
	// aliases are the names that a machine had in a network that it was taken out of:
	// connecting it again does not bring them back.
	aliases map[string][]string
	logged  map[string][]byte // by containers of a machine that are gone
}

// New returns a project and starts nothing. The error says what is missing when there is no docker.
func New(ctx context.Context, cfg Config) (*Project, error) {
	p := &Project{cfg: cfg, addrs: map[string]string{}, aliases: map[string][]string{}, logged: map[string][]byte{}}
	if p.cfg.Run == nil {
		p.cfg.Run = runCommand
	}
	engine, err := p.command(ctx, "docker", "version", "--format", "{{.Server.Version}}")
	if err != nil {
		return nil, fmt.Errorf("no docker engine answers: %w; install one (Debian: apt-get install docker.io docker-compose), start it, "+
			"and see that this user may use it", err)
	}
	compose, err := p.findCompose(ctx)
	if err != nil {
		return nil, err
	}
	p.version = fmt.Sprintf("docker %s, %s", strings.TrimSpace(string(engine)), strings.Join(compose, " "))
	p.compose = slices.Concat(compose, []string{"-p", cfg.Project})
	for _, file := range cfg.Files {
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("compose file: %w", err)
		}
		p.compose = append(p.compose, "-f", file)
	}
	if err := p.publish(); err != nil {
		return nil, err
	}
	return p, nil
}

// Servers are the three servers of docker-compose.yml. Addr of one is where its HTTP port is published.
func Servers() (all []Machine) {
	const size = 3
	for n := 1; n <= size; n++ {
		id, service := fmt.Sprintf("s%d", n), fmt.Sprintf("registry-%d", n)
		all = append(all, Machine{ID: id, Service: service, Ports: []string{fmt.Sprintf("SCOPE_REGISTRY_HTTP_%d", n), fmt.Sprintf("SCOPE_REGISTRY_RESP_%d", n)},
			Cert: &certs.Wish{Who: access.Who{Role: access.Server, ID: id}, Hosts: []string{service, service + ".peers"}}})
	}
	return all
}

// publish gives each port that is published a number which nobody else has.
func (p *Project) publish() error {
	names := 0
	for _, m := range p.cfg.Machines {
		names += len(m.Ports)
	}
	free, err := freeport.Addrs(names)
	if err != nil {
		return err
	}
	env := slices.Clone(p.cfg.Env)
	for _, m := range p.cfg.Machines {
		for i, name := range m.Ports {
			if i == 0 {
				p.addrs[m.ID] = free[0]
			}
			_, port, err := net.SplitHostPort(free[0])
			if err != nil {
				return err
			}
			env, free = append(env, name+"="+port), free[1:]
		}
	}
	p.cfg.Env = env
	return nil
}

// findCompose prefers Compose v2, the plugin, to docker-compose.
func (p *Project) findCompose(ctx context.Context) ([]string, error) {
	var errs []error
	for _, c := range [][]string{{"docker", "compose"}, {"docker-compose"}} {
		_, err := p.command(ctx, append(slices.Clone(c), "version")...)
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("neither docker compose nor docker-compose works: %w; on Debian: apt-get install docker-compose", errors.Join(errs...))
}

// call runs a command to its end, also when ctx ends meanwhile: the engine would go on with what docker has asked it for, and
// then start a container while Down removes it. When ctx has ended, no command begins.
func (p *Project) call(ctx context.Context, c Call) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s was not begun: %w", strings.Join(c.Args, " "), err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandTime)
	defer cancel()
	c.Env = p.cfg.Env
	return p.cfg.Run(ctx, c)
}

func (p *Project) command(ctx context.Context, args ...string) ([]byte, error) {
	return p.call(ctx, Call{Args: args})
}

func (p *Project) docker(ctx context.Context, args ...string) error {
	_, err := p.command(ctx, append([]string{"docker"}, args...)...)
	return err
}

func (p *Project) composed(ctx context.Context, args ...string) ([]byte, error) {
	return p.command(ctx, slices.Concat(p.compose, args)...)
}

// String says what runs, for people.
func (p *Project) String() string {
	return fmt.Sprintf("containers of project %s (%s)", p.cfg.Project, p.version)
}

// Addr is where a machine is reached from here, host:port, whatever happens to it; "" if it publishes nothing.
func (p *Project) Addr(id string) string { return p.addrs[id] }

// Up removes what an earlier run of this project left, gives all machines their certificates, and starts them. It refuses if
// any container of the project runs, which may be somebody else's.
func (p *Project) Up(ctx context.Context) error {
	if err := p.claim(ctx); err != nil {
		return err
	}
	if err := p.Down(ctx); err != nil {
		return err
	}
	var services []string
	for _, m := range p.cfg.Machines {
		services = append(services, m.Service)
	}
	if _, err := p.composed(ctx, append([]string{"up", "--no-start", "--remove-orphans"}, services...)...); err != nil {
		return fmt.Errorf("%w (are the images there? make image builds ours)", err)
	}
	if err := p.certify(ctx); err != nil {
		return err
	}
	_, err := p.composed(ctx, append([]string{"up", "-d"}, services...)...)
	return err
}

// downArgs have compose remove all that a project has.
var downArgs = []string{"down", "--volumes", "--remove-orphans", "--timeout", "1"}

// ErrRuns is that of a project which Up has refused to take over.
var ErrRuns = errors.New("runs already")

// claim makes the project this run's, unless it runs.
func (p *Project) claim(ctx context.Context) error {
	if p.claimed() {
		return nil
	}
	run, err := p.services(ctx)
	if err != nil {
		return err
	}
	if len(run) > 0 {
		return fmt.Errorf("project %s %w, with %s: take another name, or, if nobody uses it any more, remove it with its data by: %s",
			p.cfg.Project, ErrRuns, strings.Join(run, ", "), strings.Join(slices.Concat(p.compose, downArgs), " "))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ours = true
	return nil
}

func (p *Project) claimed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ours
}

// Down ends all machines and removes their volumes and networks. What Up has refused to take over stays.
func (p *Project) Down(ctx context.Context) error {
	if !p.claimed() {
		return nil
	}
	_, err := p.composed(ctx, downArgs...)
	return err
}

// machine is the one with an id.
func (p *Project) machine(id string) (Machine, error) {
	var ids []string
	for _, m := range p.cfg.Machines {
		if m.ID == id {
			return m, nil
		}
		ids = append(ids, m.ID)
	}
	return Machine{}, fmt.Errorf("%q is none of the machines %s", id, strings.Join(ids, ", "))
}

var errNoContainer = errors.New("no container")

// container is the id of a machine's container. Compose's labels find it faster
// than compose itself does.
func (p *Project) container(ctx context.Context, id string) (string, error) {
	m, err := p.machine(id)
	if err != nil {
		return "", err
	}
	out, err := p.command(ctx, "docker", "ps", "--all", "--quiet", "--no-trunc", "--filter", "label=com.docker.compose.project="+p.cfg.Project,
		"--filter", "label=com.docker.compose.service="+m.Service)
	if err != nil {
		return "", err
	}
	ids := strings.Fields(string(out))
	if len(ids) == 0 {
		return "", fmt.Errorf("%s has %w in project %s", id, errNoContainer, p.cfg.Project)
	}
	if len(ids) != 1 {
		return "", fmt.Errorf("%s has %d containers in project %s, not one", id, len(ids), p.cfg.Project)
	}
	return ids[0], nil
}

// to gives docker a command about one machine's container.
func (p *Project) to(ctx context.Context, id string, args ...string) error {
	made, err := p.container(ctx, id)
	if err != nil {
		return err
	}
	return p.docker(ctx, append(args, made)...)
}

// Kill ends a machine with SIGKILL.
func (p *Project) Kill(ctx context.Context, id string) error {
	return p.to(ctx, id, "kill", "--signal", "KILL")
}

// Stop ends a machine with SIGTERM.
func (p *Project) Stop(ctx context.Context, id string) error { return p.to(ctx, id, "stop") }

// Start starts a machine that has ended.
func (p *Project) Start(ctx context.Context, id string) error { return p.to(ctx, id, "start") }

// Pause freezes all processes of a machine. On a busy machine runc gives up now and
// then, and thaws those that were frozen: then it is asked again.
func (p *Project) Pause(ctx context.Context, id string) (err error) {
	const tries = 5
	for range tries {
		if err = p.to(ctx, id, "pause"); err == nil || !strings.Contains(err.Error(), "unable to freeze") {
			return err
		}
	}
	return err
}

// Resume ends a pause.
func (p *Project) Resume(ctx context.Context, id string) error {
	return p.to(ctx, id, "unpause")
}

// network is the full name of a network of the compose files.
func (p *Project) network(name string) string { return p.cfg.Project + "_" + name }

// Cut takes a machine out of a network.
func (p *Project) Cut(ctx context.Context, id, network string) error {
	c, err := p.look(ctx, id)
	if err != nil {
		return err
	}
	on, ok := c.NetworkSettings.Networks[p.network(network)]
	if !ok {
		return fmt.Errorf("%s is not in the network %s", id, p.network(network))
	}
	p.mu.Lock()
	p.aliases[id] = on.Aliases
	p.mu.Unlock()
	return p.to(ctx, id, "network", "disconnect", p.network(network))
}

// Mend brings it back into the network, under the names it had there.
func (p *Project) Mend(ctx context.Context, id, network string) error {
	made, err := p.container(ctx, id)
	if err != nil {
		return err
	}
	p.mu.Lock()
	aliases := p.aliases[id]
	p.mu.Unlock()
	return p.connect(ctx, made, p.network(network), aliases)
}

func (p *Project) connect(ctx context.Context, container, network string, aliases []string) error {
	args := []string{"network", "connect"}
	for _, a := range aliases {
		args = append(args, "--alias", a)
	}
	return p.docker(ctx, append(args, network, container)...)
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

func (p *Project) look(ctx context.Context, id string) (inspected, error) {
	made, err := p.container(ctx, id)
	if err != nil {
		return inspected{}, err
	}
	out, err := p.command(ctx, "docker", "inspect", made)
	if err != nil {
		return inspected{}, err
	}
	var all []inspected
	if err := json.Unmarshal(out, &all); err != nil || len(all) != 1 {
		return inspected{}, fmt.Errorf("docker inspect of %s: %d containers (%w)", id, len(all), err)
	}
	return all[0], nil
}

// Life tells one life of a machine, from a start to its end, from all others.
func (p *Project) Life(ctx context.Context, id string) (string, error) {
	c, err := p.look(ctx, id)
	return fmt.Sprintf("container %s, process %d since %s", c.ID, c.State.Pid, c.State.StartedAt), err
}

// State is what a machine runs in.
type State struct {
	Status  string // running, exited, paused, …
	PID     int    // 0 if it does not run
	Address string // in the network that was asked for; "" if it is not there
}

// Inspect tells the state of a machine, and its address in a network of the compose files.
func (p *Project) Inspect(ctx context.Context, id, network string) (State, error) {
	c, err := p.look(ctx, id)
	if err != nil {
		return State{}, err
	}
	return State{Status: c.State.Status, PID: c.State.Pid, Address: c.NetworkSettings.Networks[p.network(network)].IPAddress}, nil
}

// services are those of the project that run.
func (p *Project) services(ctx context.Context) ([]string, error) {
	out, err := p.command(ctx, "docker", "ps", "--filter", "label=com.docker.compose.project="+p.cfg.Project, "--format", `{{.Label "com.docker.compose.service"}}`)
	return strings.Fields(string(out)), err
}

// Running is an error that names the machines which do not run.
func (p *Project) Running(ctx context.Context) error {
	run, err := p.services(ctx)
	if err != nil {
		return err
	}
	var down []string
	for _, m := range p.cfg.Machines {
		if !slices.Contains(run, m.Service) {
			down = append(down, m.ID)
		}
	}
	if len(down) > 0 {
		return fmt.Errorf("%s of project %s ended, and nobody asked for it", strings.Join(down, ", "), p.cfg.Project)
	}
	return nil
}
