import json, sys, os, pytest
from pathlib import Path
from tests.support.commands import ROOT, ok
HOOK="custom_hooks=[{'type':'CountSteps','file':'%s'}]"
def counted(npu, shapes, tmp, config, ranks, level="O0", scale="32.0", steps=4):
    f=tmp/"counts"
    cmd=["train", ROOT/"tests/support"/config, "--data-path", shapes, "--work-dir", tmp/"run", "--seed", 1, "--device","npu","--workers",0,"--batch-size",2,"--max-iters",steps,"--no-validate","--opt-level",level,"--loss-scale",scale,"--cfg-options",HOOK % f,"custom_imports={'imports':['tests.support.step_counts']}","default_hooks.logger.interval=100"]
    ok(npu.run(*cmd) if ranks==1 else npu.run_ranks(ranks,*cmd))
    return [[json.loads(l) for l in Path(f"{f}.{r}").read_text().splitlines()] for r in range(ranks)]
@pytest.mark.parametrize("config",["exact.py","exact_fsaf.py"])
def test_x(npu, shapes, tmp_path, config):
    res={}
    for ranks in (1,2):
        (tmp_path/str(ranks)).mkdir()
        rows=counted(npu,shapes,tmp_path/str(ranks),config,ranks)
        res[ranks]=rows
        for r in rows:
            for i,s in enumerate(r): print(ranks, i, sum(s["launches"].values()), s["syncs"], len(s["new_signatures"]), s["new_signatures"][:6] if i else "", s["events"], s["not_native"])
    a,b=res[1][0][2]["launches"],res[2][0][2]["launches"]
    print({k:(a.get(k,0),b.get(k,0)) for k in set(a)|set(b) if a.get(k,0)!=b.get(k,0)})
