package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
)

func changedID(id int) string { return fmt.Sprintf("node-%04d", id) }

// throughRESP is the registry, changed by SCOPE NODE SET.
func (r *registry) throughRESP() *committing {
	return &committing{name: "scope-registry, RESP", cpu: r.cpu, connect: func(ctx context.Context) (changer, error) {
		return dialRESP(ctx, r.resps[r.leader])
	}}
}

// throughHTTP is the registry, changed by PUT /v1/nodes/{id} of our own client.
func (r *registry) throughHTTP() *committing {
	return &committing{name: "scope-registry, HTTP", cpu: r.cpu, connect: func(context.Context) (changer, error) {
		return httpChanger{client.New([]string{r.urls[r.leader]})}, nil
	}}
}

// committing is etcd, changed by Put of its own client.
func (e *etcd) committing() *committing {
	return &committing{name: e.name(), cpu: e.cpu, connect: func(context.Context) (changer, error) {
		c, err := e.dial(e.lead)
		return etcdChanger{c}, err
	}}
}

// respChanger is a connection of the Redis protocol.
type respChanger struct {
	conn    net.Conn
	answers *bufio.Reader
	stop    func() bool
}

func dialRESP(ctx context.Context, addr string) (*respChanger, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &respChanger{conn, bufio.NewReader(conn), context.AfterFunc(ctx, func() { _ = conn.Close() })}, nil
}

func (c *respChanger) change(_ context.Context, id int, value string) error {
	var command strings.Builder
	words := []string{"SCOPE", "NODE", "SET", changedID(id), value}
	fmt.Fprintf(&command, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&command, "$%d\r\n%s\r\n", len(w), w)
	}
	if _, err := c.conn.Write([]byte(command.String())); err != nil {
		return err
	}
	line, err := c.answers.ReadString('\n')
	if err == nil && line != "+OK\r\n" {
		err = fmt.Errorf("SCOPE NODE SET was answered with %q, not +OK", line)
	}
	return err
}

func (c *respChanger) close() error {
	if !c.stop() {
		return nil // it is closed, or just being
	}
	return c.conn.Close()
}

type httpChanger struct{ *client.Client }

func (c httpChanger) change(ctx context.Context, id int, value string) error {
	_, err := c.SetNode(ctx, api.Node{ID: changedID(id), Addr: value})
	return err
}

func (c httpChanger) close() error {
	c.Close()
	return nil
}

type etcdChanger struct{ *clientv3.Client }

func (c etcdChanger) change(ctx context.Context, id int, value string) error {
	_, err := c.Put(ctx, changedID(id), value)
	return err
}

func (c etcdChanger) close() error { return c.Close() }
