package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/freeport"
	"github.com/scope-registry/scope-registry/internal/registry"
)

// devServers is the size of a dev cluster: the smallest that survives the loss of one.
const devServers = 3

func (c *cli) devCmd() *cobra.Command {
	var dir, file string
	var free bool
	cmd := &cobra.Command{
		Use: "dev", Short: "Run a three-server cluster in one process, on loopback",
		Long: `Run a real three-server cluster in one process, on loopback, until Ctrl-C: to try
things and to develop against. Without --data-dir it forgets everything at its end.`,
		Example: "  scope-registry dev --apply examples/scopes.toml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				tmp, err := os.MkdirTemp("", "scope-registry-dev-")
				if err != nil {
					return invalid("no temporary directory: %v; give one with --data-dir", err)
				}
				defer func() { _ = os.RemoveAll(tmp) }()
				dir = tmp
			}
			return c.dev(cmd.Context(), dir, file, free)
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", "", "keep the data here; a temporary directory that is removed if empty")
	cmd.Flags().StringVar(&file, "apply", "", "scope file to apply when the cluster is ready")
	cmd.Flags().BoolVar(&free, "free-ports", false, "listen on free ports instead of 7480 to 7482, 7490 to 7492 and 7500 to 7502")
	return cmd
}

// devConfigs are the configurations of a dev cluster, on the usual ports or on free ones.
func devConfigs(dir string, free bool, log hclog.Logger) ([]serverConfig, error) {
	addrs := make([]string, devServers)
	for i := range addrs {
		addrs[i] = fmt.Sprintf("127.0.0.1:%d", defaultPeerPort+portStep*i)
	}
	if free {
		var err error
		if addrs, err = freeport.Addrs(devServers); err != nil {
			return nil, invalid("%v", err)
		}
	}
	peers := make([]registry.Peer, 0, devServers)
	for i, addr := range addrs {
		peers = append(peers, registry.Peer{ID: fmt.Sprintf("s%d", i+1), Addr: addr})
	}
	cfgs := make([]serverConfig, 0, devServers)
	for i, p := range peers {
		cfg := serverConfig{HTTPListen: "127.0.0.1:0", RESPListen: "127.0.0.1:0"}
		if !free {
			cfg.HTTPListen = fmt.Sprintf("127.0.0.1:%d", defaultHTTPPort+portStep*i)
			cfg.RESPListen = fmt.Sprintf("127.0.0.1:%d", defaultRESPPort+portStep*i)
		}
		cfg.Config = registry.Config{ID: p.ID, DataDir: filepath.Join(dir, p.ID), Peers: peers, Timing: "fast", Logger: log.Named(p.ID)}
		cfgs = append(cfgs, cfg)
	}
	return cfgs, nil
}

// startAll starts servers that wait for each other. When one does not start, the
// error is of that one, and not of those that waited for it.
func startAll(ctx context.Context, cfgs []serverConfig) ([]*server, error) {
	starting, cancel := context.WithCancel(ctx)
	defer cancel()
	servers, failed := make([]*server, len(cfgs)), make(chan error, len(cfgs))
	var wg sync.WaitGroup
	for i, cfg := range cfgs {
		wg.Go(func() {
			var err error
			if servers[i], err = startServer(starting, cfg); err != nil {
				failed <- err // before those that end for it
				cancel()      // the others would wait for this one
			}
		})
	}
	wg.Wait()
	close(failed)
	err := <-failed // nil if all started
	if err == nil {
		for _, s := range servers {
			err = errors.Join(err, s.waitReady(ctx))
		}
	}
	if err != nil {
		closeAll(servers)
		return nil, err
	}
	return servers, nil
}

func closeAll(servers []*server) {
	var wg sync.WaitGroup
	for _, s := range servers {
		if s != nil {
			wg.Go(func() { _ = s.Close() })
		}
	}
	wg.Wait()
}

func (c *cli) dev(ctx context.Context, dir, file string, free bool) error {
	log := hclog.New(&hclog.LoggerOptions{Name: "dev", Level: hclog.Warn, Output: c.err})
	cfgs, err := devConfigs(dir, free, log)
	if err != nil {
		return err
	}
	servers, err := startAll(ctx, cfgs)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer closeAll(servers)
	var endpoints, doors []string
	for _, s := range servers {
		endpoints = append(endpoints, "http://"+s.http)
		doors = append(doors, s.resp)
	}
	if err := c.devApply(ctx, endpoints, file); err != nil {
		return err
	}
	if err := c.printf("ready\n# Redis protocol: %s\nexport %s=%s\n", strings.Join(doors, " "), envEndpoints, strings.Join(endpoints, ",")); err != nil {
		return err
	}
	fatal := make(chan error, len(servers))
	for _, s := range servers {
		go func() {
			select {
			case err := <-s.reg.Fatal():
				fatal <- err
			case <-ctx.Done():
			}
		}()
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-fatal:
		return fatalError(err)
	}
}

// devApply applies the scope file, if one was given.
func (c *cli) devApply(ctx context.Context, endpoints []string, file string) error {
	if file == "" {
		return nil
	}
	f, err := c.readFile(file)
	if err != nil {
		return err
	}
	cl := client.New(endpoints, client.WithTimeout(c.timeout))
	defer cl.Close()
	a, err := cl.Apply(ctx, f.Batch(false, nil))
	if err != nil {
		return err
	}
	if a.Applied != nil {
		c.warn(a.Warnings)
		c.remark("applied %s: %d changes at index %d", file, a.Changed, a.Index)
	}
	return nil
}
