package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/certs"
	"github.com/scope-registry/scope-registry/internal/containers"
	"github.com/scope-registry/scope-registry/internal/crash/gates"
)

const (
	// gatePort is where a gate listens in its container.
	gatePort = "6004"
	// copyRate is how much of a scope a gate copies in a second while it writes on: so little that docker, which takes some tenths
	// of a second to end a container, meets a move that goes on.
	copyRate = 64 << 10
	// logLines are how many lines of each container are shown after a failure.
	logLines = 40
	// downTime bounds the removal of all containers, also after an interrupt.
	downTime = time.Minute
)

// composed is a deployment of the containers of docker-compose.yml and docker-compose.redis.yml: the services gate-N and
// redis-N are the node nN.
type composed struct {
	*containers.Project
	servers []containers.Machine
}

// newComposed returns a project of containers and starts nothing. work is a directory for certificates.
func newComposed(ctx context.Context, project, work string) (*composed, error) {
	c := &composed{servers: containers.Servers()}
	machines := c.servers
	for i, id := range gates.NodeIDs() {
		n, gate := i+1, gateHost(i)
		machines = append(machines, containers.Machine{ID: gates.StoreOf(id), Service: fmt.Sprintf("redis-%d", n)},
			containers.Machine{ID: gates.GateOf(id), Service: gate, Ports: []string{fmt.Sprintf("SCOPE_REGISTRY_GATE_%d", n)},
				Cert: &certs.Wish{Who: access.Who{Role: access.Node, ID: id}, Hosts: []string{gate}}})
	}
	var err error
	c.Project, err = containers.New(ctx, containers.Config{Files: []string{"docker-compose.yml", "docker-compose.redis.yml"}, Project: project, Work: work, Machines: machines,
		Env: []string{"SCOPE_REGISTRY_GRACE=" + gates.Grace.String(), "SCOPE_REGISTRY_RATE=" + strconv.Itoa(copyRate)}})
	return c, err
}

func gateHost(i int) string { return fmt.Sprintf("gate-%d", i+1) }

// Up starts all containers.
func (c *composed) Up(ctx context.Context) error {
	err := c.Project.Up(ctx)
	if err != nil && ctx.Err() == nil && !errors.Is(err, containers.ErrRuns) {
		return fmt.Errorf("%w\nwhere the image of Redis cannot be pulled: make image-redis, and add REDIS_IMAGE=scope-registry-redis:dev REDIS_PROGRAM=/redis-server", err)
	}
	return err
}

// Client is a client of all servers, an admin's.
func (c *composed) Client() *client.Client {
	var endpoints []string
	for _, s := range c.servers {
		endpoints = append(endpoints, "https://"+c.Addr(s.ID))
	}
	own := c.Credentials()
	return client.New(endpoints, client.WithTLS(client.TLS{CA: own.CA, Cert: own.Cert, Key: own.Key}), client.WithActor("demo"))
}

// Nodes are the nodes. Nobody but its gate reaches a store, and so its keys are seen through the gate, which hides none.
func (c *composed) Nodes() (all []gates.Node) {
	for i, id := range gates.NodeIDs() {
		here := c.Addr(gates.GateOf(id))
		all = append(all, gates.Node{ID: id, Addr: net.JoinHostPort(gateHost(i), gatePort), Gate: here, Store: here})
	}
	return all
}

// Logs are the last lines of all containers.
func (c *composed) Logs(ctx context.Context) string {
	said, err := c.LastLogs(ctx, logLines)
	if err != nil {
		return "no logs: " + err.Error()
	}
	return said
}

// Close ends all containers and removes them with their data.
func (c *composed) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), downTime)
	defer cancel()
	return c.Down(ctx)
}
