package target

import (
	"context"
	"fmt"
	"slices"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/certs"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/containers"
)

// The networks of the compose files on which a server reaches the others, and a node the servers.
const (
	peers        = "peers"
	nodesNetwork = "nodes"
)

// Docker is a [Target] of containers: the services registry-N of the compose files are the servers sN, and store-N the data
// nodes dN. Its methods may be called by many goroutines, each about machines of its own.
type Docker struct {
	*containers.Project
	servers, nodes []string
}

// NewDocker returns the cluster of compose files as a project of its own, with so many data nodes. It starts nothing. work is
// a directory for copies of their data. The error says what is missing when there is no docker.
func NewDocker(ctx context.Context, files []string, project string, nodes int, work string) (*Docker, error) {
	return newDocker(ctx, containers.Config{Files: files, Project: project, Work: work}, nodes)
}

func newDocker(ctx context.Context, cfg containers.Config, nodes int) (*Docker, error) {
	d := &Docker{}
	cfg.Machines = containers.Servers()
	for _, m := range cfg.Machines {
		d.servers = append(d.servers, m.ID)
	}
	for n := 1; n <= nodes; n++ {
		id := fmt.Sprintf("d%d", n)
		d.nodes = append(d.nodes, id)
		cfg.Machines = append(cfg.Machines, containers.Machine{ID: id, Service: fmt.Sprintf("store-%d", n), Ports: []string{fmt.Sprintf("SCOPE_REGISTRY_STORE_%d", n)},
			Cert: &certs.Wish{Who: access.Who{Role: access.Node, ID: id}}})
	}
	var err error
	d.Project, err = containers.New(ctx, cfg)
	return d, err
}

// Servers are the ids of the servers, in order.
func (d *Docker) Servers() []string { return slices.Clone(d.servers) }

// Nodes are the ids of the data nodes, in order.
func (d *Docker) Nodes() []string { return slices.Clone(d.nodes) }

// URL is where clients reach a server or a node.
func (d *Docker) URL(id string) string {
	if slices.Contains(d.nodes, id) {
		return "http://" + d.Addr(id)
	}
	return "https://" + d.Addr(id)
}

// Readdresses says that a container may come back with another address.
func (d *Docker) Readdresses() bool { return true }

// network is where a server reaches the others, and a node the servers.
func (d *Docker) network(id string) string {
	if slices.Contains(d.nodes, id) {
		return nodesNetwork
	}
	return peers
}

// Cut takes a server out of the network that servers talk on, or a node out of that
// on which it reaches them.
func (d *Docker) Cut(ctx context.Context, id string) error {
	return d.Project.Cut(ctx, id, d.network(id))
}

// Mend brings it back into the network, under the names it had there.
func (d *Docker) Mend(ctx context.Context, id string) error {
	return d.Project.Mend(ctx, id, d.network(id))
}

// Inspect tells state, process and address of a server's container.
func (d *Docker) Inspect(ctx context.Context, id string) (history.Machine, error) {
	s, err := d.Project.Inspect(ctx, id, d.network(id))
	return history.Machine{State: s.Status, PID: s.PID, Peer: s.Address, Node: slices.Contains(d.nodes, id)}, err
}
