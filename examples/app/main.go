// Command app issues invoice numbers on several nodes, of which one at a time may: the one that owns app:invoices:. The
// counter is in a file that all nodes share, so that a move hands over nothing but the right to write it.
//
//	go run ./examples/app --node a1 --listen 127.0.0.1:6201
//	go run ./examples/app --node a2 --listen 127.0.0.1:6202
//	scope-registry scope declare app:invoices: --writer a1
//	scope-registry move start app:invoices: --from a1 --to a2 --wait
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/scope-registry/scope-registry/client"
)

// counter is the file: the last number, and the token it was issued under.
type counter struct {
	Number uint64
	Token  client.Token
}

// issue takes the next number. A file with a newer token is another owner's, who came while this process stood still:
// the guard would not acknowledge the write, but only this keeps it from being made. (Between reading and renaming
// there is a gap, which storage that checks tokens itself does not have.)
func issue(path string, token client.Token) (uint64, error) {
	var c counter
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	if last := c.Token; last.Incarnation > token.Incarnation || last.Incarnation == token.Incarnation && last.Epoch > token.Epoch {
		return 0, fmt.Errorf("%s was written under %+v, which is later than %+v", path, last, token)
	}
	c = counter{c.Number + 1, token}
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	if err = errors.Join(json.NewEncoder(f).Encode(c), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path) // a crash leaves the old file or the new one
	}
	return c.Number, err
}

func run() (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	node := flag.String("node", "", "id of this node")
	listen := flag.String("listen", "127.0.0.1:6201", "address at which other nodes reach this one")
	dir := flag.String("dir", filepath.Join(os.TempDir(), "invoices"), "directory that all nodes share")
	endpoints := flag.String("endpoints", "http://127.0.0.1:7481", "the registry's servers, separated by commas")
	flag.Parse()
	if err := os.MkdirAll(*dir, 0o700); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	registry := client.New(strings.Split(*endpoints, ","))
	defer registry.Close()
	session, err := client.StartSession(registry, client.SessionConfig{Node: *node, DataDir: filepath.Join(*dir, "session-"+*node),
		Store: client.NoData{}, RefuseUnscoped: true, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	// Behind the session: a second process of the node by mistake, which it refuses, must not take the address away.
	if _, err := registry.SetNode(ctx, client.Node{ID: *node, Addr: listener.Addr().String()}); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle(client.SlicePath, session.Handler()) // other nodes say here that all was handed over
	web := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go web.Serve(listener) //nolint:errcheck // it ends with Close
	defer func() {
		end, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		err = errors.Join(err, session.Close(end), web.Close()) // the session first: then nothing is under way
	}()
	for tick := time.NewTicker(time.Second); ; {
		var number uint64
		err := session.Guard().Write(ctx, []byte("app:invoices:next"), func(_ context.Context, token client.Token) (err error) {
			number, err = issue(filepath.Join(*dir, "counter.json"), token)
			return err
		})
		if err == nil { // only now may anybody hear of the number
			fmt.Printf("%s issued invoice %d\n", *node, number)
		} else {
			fmt.Printf("%s: %v\n", *node, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
}
