package main

import (
	"context"
	"net/url"
	"os"
	"sync"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// vcenter is the simulator and all that we add to it.
type vcenter struct {
	options  options
	model    *simulator.Model
	service  *simulator.Service
	registry *simulator.Registry
	world    *world
	rules    *rules
	people   *people
	guests   *guests
	streams  *streams
	calls    *counter
	tasks    *tasks
	vsan     *vsanHealth

	mutex      sync.Mutex
	parents    map[types.ManagedObjectReference]*parent
	reserved   map[string]bool
	unreadable map[types.ManagedObjectReference]bool
	sessions   map[string]*simulator.Session
	programs   *programs
}

func newVCenter(o options) (*vcenter, error) {
	// The simulator keeps its datastore in the directory for temporary files.
	if err := os.Setenv("TMPDIR", o.state); err != nil {
		return nil, err
	}
	v := &vcenter{
		options:    o,
		rules:      newRules(),
		people:     newPeople(o.user, o.password),
		calls:      newCounter(),
		parents:    map[types.ManagedObjectReference]*parent{},
		reserved:   map[string]bool{},
		unreadable: map[types.ManagedObjectReference]bool{},
		sessions:   map[string]*simulator.Session{},
		programs:   newPrograms(),
	}
	v.tasks = &tasks{v: v}
	if err := v.build(); err != nil {
		return nil, err
	}
	v.registry = v.model.Map()
	v.streams = newStreams(v)
	v.guests = newGuests(v)
	v.registry.AddHandler(&observer{v: v, Self: types.ManagedObjectReference{Type: "Observer", Value: "forkyard"}})
	for _, vm := range v.machines() {
		v.guests.begin(vm, nil)
	}
	// A pointer of our own: for the simulator's own default one anybody may log in.
	v.service.Listen = &url.URL{User: url.UserPassword(o.user, o.password)}
	v.registry.SessionManager().ValidLogin = v.people.mayLogIn
	v.service.RegisterSDK(v.registry, v.registry.Path+"/vimService")
	v.service.ServeMux.HandleFunc(v.registry.Path+"/vimServiceVersions.xml", v.service.ServiceVersions)
	v.registry.Handler = v.route
	v.vsan = newVsanHealth(v)
	return v, nil
}

func (v *vcenter) close() {
	v.guests.endAll()
	v.model.Remove()
}

// context is one of our own: locks are shared by those that have the same one, so every piece of work takes a new one.
func (v *vcenter) context() *simulator.Context {
	return &simulator.Context{
		Context: context.Background(),
		Map:     v.registry,
		Session: &simulator.Session{
			UserSession: types.UserSession{Key: uuid.NewString(), UserName: "vcenter"},
			Registry:    simulator.NewRegistry(),
			Map:         v.registry,
		},
	}
}

// fork of a request's context, for work that goes on after the request.
func fork(ctx *simulator.Context) *simulator.Context {
	own := *ctx
	return &own
}

func (v *vcenter) machine(ref types.ManagedObjectReference) *simulator.VirtualMachine {
	vm, _ := v.registry.Get(ref).(*simulator.VirtualMachine)
	return vm
}

func (v *vcenter) machines() []*simulator.VirtualMachine {
	var found []*simulator.VirtualMachine
	for _, one := range v.registry.All("VirtualMachine") {
		if vm, ok := one.(*simulator.VirtualMachine); ok {
			found = append(found, vm)
		}
	}
	return found
}

func (v *vcenter) hostOf(vm *simulator.VirtualMachine) *simulator.HostSystem {
	if vm == nil || vm.Runtime.Host == nil {
		return nil
	}
	host, _ := v.registry.Get(*vm.Runtime.Host).(*simulator.HostSystem)
	return host
}

// observer hears of every change in the inventory, on whoever's behalf it is made.
type observer struct {
	v    *vcenter
	Self types.ManagedObjectReference
}

func (o *observer) Reference() types.ManagedObjectReference { return o.Self }

func (o *observer) PutObject(_ *simulator.Context, obj mo.Reference) {
	o.v.streams.changed(obj.Reference())
}

func (o *observer) UpdateObject(_ *simulator.Context, obj mo.Reference, changes []types.PropertyChange) {
	ref := obj.Reference()
	o.v.streams.changed(ref)
	if ref.Type == "VirtualMachine" {
		o.v.guests.poke(ref)
	}
}

func (o *observer) RemoveObject(_ *simulator.Context, ref types.ManagedObjectReference) {
	o.v.streams.changed(ref)
	if ref.Type == "VirtualMachine" {
		o.v.guests.end(ref)
	}
}
