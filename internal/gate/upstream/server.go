package upstream

import (
	"context"
	"fmt"
	"strings"
)

// Server is what a store says of itself.
type Server struct {
	Name      string // redis, valkey, …
	Version   string
	Run       string // another one after each start
	AOF       bool   // it keeps an append-only file
	Evicts    string // its maxmemory-policy, if a limit of memory is set and the policy is not noeviction
	MaxMemory uint64 // 0 is no limit
}

// UnfitError says why a store cannot be behind a gate.
type UnfitError struct{ Why string }

func (e *UnfitError) Error() string { return e.Why }

// Info asks the store for sections of INFO, and returns the fields by name.
func (s *Store) Info(ctx context.Context, section string) (map[string]string, error) {
	reply, err := s.Ask(ctx, "INFO", section)
	if err != nil {
		return nil, err
	}
	return parseInfo(reply.Text), nil
}

func parseInfo(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && !strings.HasPrefix(name, "#") {
			out[name] = value
		}
	}
	return out
}

// inspect refuses stores that a gate cannot stand before, and warns of those whose word is worth less.
func (s *Store) inspect(ctx context.Context, l *link) error {
	reply, err := l.ask(ctx, "INFO")
	if err != nil {
		return err
	}
	info := parseInfo(reply.Text)
	switch {
	case info["cluster_enabled"] == "1":
		return &UnfitError{fmt.Sprintf("the store at %s runs in cluster mode, where it decides itself who has which key; a gate stands before a single server", s.cfg.Addr)}
	case info["role"] == "slave" || info["role"] == "replica":
		return &UnfitError{fmt.Sprintf("the store at %s is a replica of %s:%s and takes no writes; give the primary's address", s.cfg.Addr, info["master_host"], info["master_port"])}
	}
	s.started = serverOf(info)
	if s.started.Evicts != "" {
		s.log.Warn("the store deletes keys by itself when its memory is full, acknowledged or not; set maxmemory-policy noeviction", "policy", s.started.Evicts)
	}
	if !s.started.AOF {
		s.log.Warn("the store keeps no append-only file: when it dies, acknowledged writes are lost; set appendonly yes, and appendfsync always where none may be")
	}
	return nil
}

func serverOf(info map[string]string) Server {
	out := Server{Name: "redis", Version: info["redis_version"], Run: info["run_id"], AOF: info["aof_enabled"] == "1"}
	if name := info["server_name"]; name != "" { // Valkey calls itself redis in redis_version
		out.Name = name
		if v := info[name+"_version"]; v != "" {
			out.Version = v
		}
	}
	if _, err := fmt.Sscan(info["maxmemory"], &out.MaxMemory); err != nil {
		out.MaxMemory = 0 // a store that does not say
	}
	if policy := info["maxmemory_policy"]; out.MaxMemory > 0 && policy != "noeviction" {
		out.Evicts = policy
	}
	return out
}
