package main

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// strayAddress is what a guest has that was set not to take the one it is given.
const strayAddress = "127.0.0.9"

// strayName is what a guest is called that was set not to take the name it is given.
const strayName = "stray"

const (
	noEngine = "Guest Tools does not support Guest Customization"
	isLocked = "Another customization holds the lock of the guest's customization engine"
)

// customizeCalls customize a running guest that has no agent of ours: VMware's tools do it from inside.
type customizeCalls struct {
	freeLock
	Self types.ManagedObjectReference
	v    *vcenter
}

func (c *customizeCalls) Reference() types.ManagedObjectReference { return c.Self }

// CustomizeGuestTask gives a fork its host name and address; its network stays down.
func (c *customizeCalls) CustomizeGuestTask(ctx *simulator.Context, req *types.CustomizeGuest_Task) soap.HasFault {
	body := new(methods.CustomizeGuest_TaskBody)
	vm, wrong := c.v.operate(ctx, req.Vm, req.Auth)
	if wrong != nil {
		body.Fault_ = simulator.Fault("", wrong)
		return body
	}
	task := c.v.startEngine(ctx, vm, "CustomizeGuest_Task", func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		name, address := readCustomization(&req.Spec)
		if name == "" || address == "" {
			return nil, new(types.CustomizationFault)
		}
		guest := c.v.guests.get(vm.Self)
		if guest == nil {
			return nil, new(types.InvalidState)
		}
		guest.customize(name, address)
		c.v.showGuest(ctx, vm, guest.shownName(), "")
		return nil, nil
	})
	body.Res = &types.CustomizeGuest_TaskResponse{Returnval: task}
	return body
}

// StartGuestNetworkTask lets a customized guest use its NIC, which must be connected by then.
func (c *customizeCalls) StartGuestNetworkTask(ctx *simulator.Context, req *types.StartGuestNetwork_Task) soap.HasFault {
	body := new(methods.StartGuestNetwork_TaskBody)
	vm, wrong := c.v.operate(ctx, req.Vm, req.Auth)
	if wrong != nil {
		body.Fault_ = simulator.Fault("", wrong)
		return body
	}
	task := c.v.startEngine(ctx, vm, "StartGuestNetwork_Task", func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		guest := c.v.guests.get(vm.Self)
		if guest == nil || !guest.observe().connected {
			return nil, new(types.InvalidState)
		}
		if answer := guest.network(); answer["ok"] != true {
			return nil, new(types.CustomizationFault)
		}
		address := guest.identity.Address
		if guest.trouble.unproved == "address" {
			address = strayAddress
		}
		c.v.showGuest(ctx, vm, guest.shownName(), address)
		return nil, nil
	})
	body.Res = &types.StartGuestNetwork_TaskResponse{Returnval: task}
	return body
}

// AbortCustomizationTask ends the engine in the guest, and takes its lock away.
func (c *customizeCalls) AbortCustomizationTask(ctx *simulator.Context, req *types.AbortCustomization_Task) soap.HasFault {
	body := new(methods.AbortCustomization_TaskBody)
	vm, wrong := c.v.operate(ctx, req.Vm, req.Auth)
	if wrong != nil {
		body.Fault_ = simulator.Fault("", wrong)
		return body
	}
	task := c.v.startDisturbed(ctx, vm, "AbortCustomization_Task", func(*simulator.Context) (types.AnyType, types.BaseMethodFault) {
		if guest := c.v.guests.get(vm.Self); guest != nil {
			guest.unlock()
		}
		return nil, nil
	})
	body.Res = &types.AbortCustomization_TaskResponse{Returnval: task}
	return body
}

// startEngine starts a task of the customization engine in the guest: it holds a lock there until it ends well.
func (v *vcenter) startEngine(ctx *simulator.Context, vm *simulator.VirtualMachine, method string, do work) types.ManagedObjectReference {
	guest := v.guests.get(vm.Self)
	if guest == nil {
		return v.startDisturbed(ctx, vm, method, do)
	}
	wrong := ""
	if guest.trouble.engineless {
		wrong = noEngine
	} else if !guest.lock() {
		wrong = isLocked
	}
	return v.startDisturbed(ctx, vm, method, func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		if wrong != "" {
			fault := new(types.CustomizationFault)
			fault.FaultMessage = []types.LocalizableMessage{{Key: "customization", Message: wrong}}
			return nil, fault
		}
		result, fault := do(ctx)
		if fault == nil {
			guest.unlock()
		}
		return result, fault
	})
}

// lock the guest's customization engine; false: somebody holds it.
func (g *guest) lock() bool {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	if g.locked {
		return false
	}
	g.locked = true
	return true
}

func (g *guest) unlock() {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.locked = false
}

// readCustomization finds the fixed name and the fixed address of the first adapter; the rest is not used here.
func readCustomization(spec *types.CustomizationSpec) (name, address string) {
	if linux, ok := spec.Identity.(*types.CustomizationLinuxPrep); ok {
		if fixed, ok := linux.HostName.(*types.CustomizationFixedName); ok {
			name = fixed.Name
		}
	}
	if len(spec.NicSettingMap) > 0 {
		if fixed, ok := spec.NicSettingMap[0].Adapter.Ip.(*types.CustomizationFixedIp); ok {
			address = fixed.IpAddress
		}
	}
	return name, address
}

func (g *guest) customize(name, address string) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.identity = &identity{ForkID: g.vm.Config.Uuid, Service: g.v.options.service, Name: name, Address: address}
	g.state.agent = "identified"
	g.state.ticks.resume()
}

func (g *guest) shownName() string {
	if g.trouble.unproved == "hostname" {
		return strayName
	}
	return g.identity.Name
}

// showGuest is what the tools tell vCenter of the guest.
func (v *vcenter) showGuest(ctx *simulator.Context, vm *simulator.VirtualMachine, name, address string) {
	ctx.WithLock(vm, func() {
		if card := findNIC(vm); card != nil && address != "" {
			// Not by the simulator's update, which loses lists of structs.
			vm.Guest.Net = []types.GuestNicInfo{{MacAddress: card.MacAddress, IpAddress: []string{address}, Connected: true, DeviceConfigId: card.Key}}
		}
		ctx.Update(vm, []types.PropertyChange{
			{Name: "guest.hostName", Val: name}, {Name: "summary.guest.hostName", Val: name},
			{Name: "guest.ipAddress", Val: address}, {Name: "summary.guest.ipAddress", Val: address},
		})
	})
}
