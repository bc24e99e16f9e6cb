package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/process"
)

// node is a data node in this process: a session, and the port that slices come to.
type node struct {
	id      string
	c       *client.Client
	session *client.Session
	http    *http.Server
	served  chan struct{} // closed when http has ended
}

// startNode declares a node, opens its session through one server and waits until it is ready.
func startNode(ctx context.Context, id, url, dir string) (*node, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n := &node{id: id, c: client.New([]string{url}), served: make(chan struct{})}
	if _, err := n.c.SetNode(ctx, api.Node{ID: id, Addr: l.Addr().String()}); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	n.session, err = client.StartSession(n.c, client.SessionConfig{Node: id, DataDir: filepath.Join(dir, id), Store: client.NoData{}})
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	mux := http.NewServeMux()
	mux.Handle(client.SlicePath, n.session.Handler())
	n.http = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		defer close(n.served)
		_ = n.http.Serve(l) // until stop
	}()
	if err := n.session.WaitReady(ctx); err != nil {
		return nil, errors.Join(err, n.stop())
	}
	return n, nil
}

// stop ends the session, also when the time of the run is over.
func (n *node) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	err := errors.Join(n.session.Close(ctx), n.http.Close())
	<-n.served
	n.c.Close()
	return err
}

// has waits until the node's view has reached an index.
func (n *node) has(ctx context.Context, index uint64) error {
	for n.session.View().Index() < index {
		if err := process.Sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}
