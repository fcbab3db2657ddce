"""Reads and tries out what is deployed in AWS, for the tests: a JSON request a line on stdin, a JSON answer a line on stdout.

Each function below is a request: its name is `do`, its parameters are the other fields.
"""

import ast
import contextlib
import io
import json
import os
import re
import runpy
import sys
import threading


def template(path):
    """A CloudFormation template, tags such as !Sub in their long form."""
    from cfnlint.decode import cfn_yaml

    return cfn_yaml.load(path)


def component(path):
    """Plain YAML."""
    import yaml

    with open(path) as file:
        return yaml.safe_load(file)


def hcl(path):
    """What Packer and Terraform read."""
    import hcl2

    def plain(value):
        # The parser leaves quotes and heredoc marks on strings.
        if isinstance(value, dict):
            return {plain(key): plain(item) for key, item in value.items() if not key.startswith("__")}
        if isinstance(value, list):
            return [plain(item) for item in value]
        if isinstance(value, str):
            value = value.removeprefix('"').removesuffix('"')
            heredoc = re.fullmatch(r"<<-EOT\n(.*)\n *EOT", value, re.DOTALL)
            return heredoc[1] if heredoc else value
        return value

    with open(path) as file:
        return plain(hcl2.load(file))


def aws(service, operation, arguments):
    """An API call, where the environment says that AWS is."""
    import boto3

    answer = getattr(boto3.client(service), operation)(**arguments)
    answer.pop("ResponseMetadata", None)
    # moto gives an inline policy that a stack made as Python would print it.
    if isinstance(answer.get("PolicyDocument"), str):
        answer["PolicyDocument"] = ast.literal_eval(answer["PolicyDocument"])
    return answer


def managed_policy(name):
    """A policy that AWS manages."""
    from moto.iam.aws_managed_policies import aws_managed_policies_data

    return json.loads(aws_managed_policies_data)[name]["Document"]


def matches(pattern, events):
    """Which of the events the pattern of a rule matches."""
    from moto.events.models import EventPattern

    compiled = EventPattern.load(json.dumps(pattern))
    return [compiled.matches_event(event) for event in events]


def invalid(service, operation, arguments):
    """Why the service would not take these arguments, by its own model; empty when it would."""
    import boto3
    from botocore.validate import ParamValidator

    client = boto3.client(service, region_name="eu-central-1")
    shape = client.meta.service_model.operation_model(operation).input_shape
    return ParamValidator().validate(arguments, shape).generate_report()


def violations(schema, document):
    """What the document does that the JSON Schema forbids."""
    import jsonschema

    return [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(document)]


def allowed(pattern, values):
    """Which of the values an allowedPattern lets through."""
    return [re.search(pattern, value) is not None for value in values]


def handle(path, environment, events):
    """Runs the code of a Lambda function with each event: what it printed, and the error it ended with."""
    said, error = io.StringIO(), None
    before = dict(os.environ)
    os.environ.update(environment)
    with contextlib.redirect_stdout(said):
        # As Lambda does: the module once, then the handler for each event.
        handler = runpy.run_path(path)["handler"]
        for event in events:
            try:
                handler(event, None)
            except Exception as raised:
                error = f"{type(raised).__name__}: {raised}"
    os.environ.clear()
    os.environ.update(before)
    return {"said": said.getvalue(), "error": error}


class Abandoned(BaseException):
    """Ends the thread of an actor whose next calls are of no interest."""


class Actor:
    """Work in a thread of its own, which does one call at a time, when it is told to."""

    def __init__(self, work):
        self.go, self.back = threading.Semaphore(0), threading.Semaphore(0)
        self.alive, self.wanted, self.saw = True, True, ()
        threading.Thread(target=self.run, args=(work,), daemon=True).start()

    def run(self, work):
        try:
            self.wait()
            work(self)
        except Abandoned:
            pass
        finally:
            self.alive = False
            self.back.release()

    def wait(self):
        self.go.acquire()
        if not self.wanted:
            raise Abandoned

    def call(self, do):
        """Waits for its turn, then calls and notes the answer."""
        self.back.release()
        self.wait()
        try:
            answer = do()
        except Exception as error:
            self.saw += (repr(error),)
            raise
        without_times = {key: value for key, value in (answer or {}).items() if key != "ResponseMetadata"}
        self.saw += (json.dumps(without_times, default=lambda _: None),)
        return answer

    def step(self):
        self.go.release()
        self.back.acquire()

    def abandon(self):
        self.wanted = False
        if self.alive:
            self.step()


def race(path, environment, before, beside):
    """Runs the function of key-pairs.yaml twice at once, in every order of the calls: the second run comes after the
    changes in `beside`, which fall anywhere between the calls of the first. What is then published, and the number of orders
    that differ in what a run saw. A change is an operation of EC2 and its arguments.
    """
    import boto3
    from moto import mock_aws
    from moto.moto_api._internal import mock_random

    environment_before = dict(os.environ)
    os.environ.update(environment)
    del os.environ["AWS_ENDPOINT_URL"]
    mock = mock_aws()
    mock.start()
    ec2, ssm = boto3.client("ec2"), boto3.client("ssm")
    function = runpy.run_path(path)
    mine = threading.local()
    for client in (function["ec2"], function["ssm"]):
        def call(operation, arguments, real=client._make_api_call):
            def do():
                answer = real(operation, arguments)
                if not operation.startswith(("Describe", "List")):
                    written.append(f"{operation} {arguments}")
                return answer

            return mine.actor.call(do)

        client._make_api_call = call

    def published():
        return {p["Name"]: p["Value"] for p in ssm.get_parameters_by_path(Path="/", Recursive=True)["Parameters"]}

    def change(operation, arguments):
        written.append(operation)
        getattr(ec2, operation)(**arguments)

    def run(actor):
        mine.actor = actor
        function["handler"]({}, None)

    def changes_then_run(actor):
        for one in beside:
            actor.call(lambda one=one: change(*one))
        run(actor)

    def start(*works):
        for pair in ec2.describe_key_pairs()["KeyPairs"]:
            ec2.delete_key_pair(KeyName=pair["KeyName"])
        for name in published():
            ssm.delete_parameter(Name=name)
        mock_random.seed(0)
        for one in before:
            change(*one)
        first = Actor(run)
        while first.alive:
            first.step()
        written.clear()
        actors = [Actor(work) for work in works]
        for actor in actors:
            actor.step()  # up to its first call
        return actors

    ends, orders, order, seen, written = set(), 0, [], set(), []
    with contextlib.redirect_stdout(io.StringIO()):
        while order is not None:
            actors, chosen, known = start(run, changes_then_run), [], False
            # As the order so far says, then each time the first of the two until it is at its end.
            while any(actor.alive for actor in actors) and not known:
                at = len(chosen)
                one = order[at] if at < len(order) else 0 if actors[0].alive else 1
                chosen.append((one, actors[1 - one].alive))
                actors[one].step()
                # What comes next depends on nothing else: what both saw, and what was written in which order.
                state = (actors[0].saw, actors[1].saw, tuple(written), actors[0].alive, actors[1].alive)
                known = at >= len(order) - 1 and state in seen
                seen.add(state)
            if not known:
                ends.add(tuple(sorted(f"{name.rpartition('/')[0]} {line.split()[2]}" for name, line in published().items())))
                orders += 1
            for actor in actors:
                actor.abandon()
            # The next order differs in the last choice of the first where the second could have gone on instead.
            while chosen and chosen[-1] != (0, True):
                chosen.pop()
            order = [one for one, _ in chosen[:-1]] + [1] if chosen else None
    mock.stop()
    os.environ.clear()
    os.environ.update(environment_before)
    return {"ends": sorted(ends), "orders": orders}


for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps(globals()[request.pop("do")](**request), default=str), flush=True)
