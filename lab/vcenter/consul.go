package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

const consulAtOnce = 16

// consul puts guests into the catalog as their own agents would: a node of the child's name, its service, its check.
//
// Straight into the catalog, because a thousand agents in one process is what this vCenter is to spare, and because an
// entry made through some other agent would stand on that agent's node. The node has no serfHealth check: nodes that
// have one and are no member of the gossip are what Consul's leader removes.
type consul struct {
	url    string
	dc     string
	client *http.Client
	places chan struct{}
}

func newConsul(o options) *consul {
	transport := &http.Transport{MaxIdleConnsPerHost: consulAtOnce, MaxConnsPerHost: consulAtOnce}
	return &consul{
		url: o.consul, dc: o.consulDC, client: &http.Client{Timeout: 30 * time.Second, Transport: transport},
		places: make(chan struct{}, consulAtOnce),
	}
}

// register one child with one check, which passes when the game has just proved that it works.
func (c *consul) register(who *identity, o options, works bool) error {
	if c.url == "" {
		return nil
	}
	status := "critical"
	if works {
		status = "passing"
	}
	address := hostPart(who.Address)
	id := fmt.Sprintf("forkyard:%s:%d", o.service, o.port)
	return c.put("/v1/catalog/register", map[string]any{
		"Datacenter": c.dc, "Node": who.Name, "ID": who.ConsulNodeID, "Address": address,
		"Service": map[string]any{
			"ID": id, "Service": who.Service, "Address": address, "Port": o.port, "Tags": []string{},
			"Meta": map[string]string{"fork_id": who.ForkID, "child": who.Name},
		},
		"Check": map[string]any{
			"Node": who.Name, "CheckID": "service:" + id, "Name": "Service '" + who.Service + "' check", "Status": status,
			"ServiceID": id, "Output": "as the guest itself found",
		},
	})
}

// deregister the child's node with all that is on it; one that is not there is as good.
func (c *consul) deregister(who *identity) {
	if c.url != "" {
		_ = c.put("/v1/catalog/deregister", map[string]any{"Datacenter": c.dc, "Node": who.Name})
	}
}

func (c *consul) put(path string, body any) error {
	c.places <- struct{}{}
	defer func() { <-c.places }()
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	ask, err := http.NewRequest(http.MethodPut, c.url+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	answer, err := c.client.Do(ask)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<12))
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s %s", path, answer.Status, said)
	}
	return nil
}
