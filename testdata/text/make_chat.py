"""Tiny tokenizers, chat templates in the manner of the known families, and what transformers makes of them.

Made with transformers 5.23.0, tokenizers 0.23.3, Jinja2 3.1.6. Run in this directory:

    CUDA_VISIBLE_DEVICES= HF_HUB_OFFLINE=1 python make_chat.py

`bpe/`, `wordpiece/`, `unigram/` are tokenizer folders (trained on the sentences below, special tokens included).
`encode.json`: texts with ids, offsets (in characters) and decodings, per tokenizer. `templates/*.jinja`: the templates.
`chat.json`: per template and conversation the rendered text, the ids (byte-level BPE), and, where the template has
generation markers, the assistant mask of `apply_chat_template(..., return_assistant_tokens_mask=True)`.
"""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "Many fine-tuned checkpoints in; one multi-task model out.",
    "You are a helpful assistant. Answer briefly and precisely!",
    "What is the capital of France? The capital of France is Paris.",
    "user assistant system tool Cutting Knowledge Date: December 2023 Today Date:",
    "Wie wird das Wetter morgen? Größer, schöner, weiter — naïve café.",
    "1 + 1 = 2, and 12 * 12 = 144; f(x) = x^2",
]
MARKS = ["<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>",
         "<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>", "<|user|>",
         "<|assistant|>", "<|system|>"]


def bpe():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
            r"\s+(?!\S)|\s+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=MARKS, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(SENTENCES, trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B:1",
                                                        special_tokens=[("<s>", 1)])
    return made, dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def wordpiece():
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(SENTENCES, trainers.WordPieceTrainer(vocab_size=160, special_tokens=marks,
                                                                  show_progress=False))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return made, dict(cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]")


def unigram():
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.train_from_iterator(SENTENCES, trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False))
    made.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>",
                                                        special_tokens=[("</s>", 1)])
    return made, dict(eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


TEXTS = ["The quick brown fox", " two  spaces\nand a line", "", "Größer ﬁn naïve 😀 日本", "</s>hello<s>", "12 * 12 = 144!?",
         "I don't\tknow\r\n"]
PAIR = ["What is the capital of France?", "The capital of France is Paris, a city on the Seine."]

TEMPLATES = {
    "chatml": """{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}
{% for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{% endif %}
""",
    "llama3": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Tools:\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("only one tool call at once") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- else %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "mistral": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace(index=0) %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message.role not in ["user", "assistant"] %}{% continue %}{% endif %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("roles must alternate user/assistant/user/assistant/...") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"].strip() + eos_token}}
    {%- endif %}
{%- endfor %}
""",
    "gemma": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\\n\\n' %}{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{% for message in rest %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + (first if loop.first else '') + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}""",
    "zephyr": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
""",
    "marked": """{# own template: generation markers and tools #}
{%- macro show(tool) -%}
{{ tool.function.name }}: {{ tool.function | tojson }}{{ "\\n" }}
{%- endmacro -%}
{% if tools %}
<|system|>{% for tool in tools %}{{ show(tool) }}{% endfor %}{{ eos_token }}
{% endif %}
{% for message in messages %}
{% if message.role == 'assistant' %}
<|assistant|>{% generation %}
{% if message.tool_calls %}
{% for call in message.tool_calls %}
call {{ call.function.name.upper() }} {{ call.function.arguments | tojson }}
{% endfor %}
{% else %}
{{ message.content.split('</think>')[-1].lstrip('\\n') }}
{%- endif %}
{{- eos_token }}{% endgeneration %}

{% else %}
<|{{ message.role }}|>{{ message.content }}{{ eos_token }}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}<|assistant|>{% endif %}""",
    "dated": """{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}|{{ none }}|{{ true }}|{{ 1.0 }}|{{ [1, 'a', none, {'k': 2.5}] }}|{{ {'b': 1, 'a': [true]} | tojson }}|{{ messages[0].content | tojson }}|{{ [1e20, 1.5e-7, 0.1, 100000000000000000.0, 'é<&>\\u0001'] | tojson }}|{{ [] | tojson(indent=2) }}|{{ missing }}|{{ messages | map(attribute='role') | join(',') }}|{{ 'a,b'.split(',') }}|{{ "%s-%d" | format('x', 3) }}""",
}
TOOLS = [{"type": "function", "function": {
    "name": "weather", "description": "Wetter für einen Ort & \"Tag\"",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                   "required": ["city"]}}}]
CALL = {"role": "assistant", "content": "", "tool_calls": [
    {"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln", "days": 2, "f": 0.5}}}]}
CONVERSATIONS = {
    "one": dict(messages=[{"role": "user", "content": "What is the capital of France?"}]),
    "turns": dict(messages=[
        {"role": "system", "content": "  Answer briefly. "},
        {"role": "user", "content": "1 + 1 = ?"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nIt is 2. "},
        {"role": "user", "content": "Größer?\n  12 * 12"},
        {"role": "assistant", "content": "144 😀"}]),
    "tools": dict(tools=TOOLS, messages=[
        {"role": "user", "content": "Wie wird das Wetter?"}, CALL,
        {"role": "tool", "content": "{\"sun\": true}"},
        {"role": "assistant", "content": "Schöner."}]),
}


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def fast(name, made, special):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"), pretty=False)
    listed = dict(special, tokenizer_class="PreTrainedTokenizerFast", model_max_length=512)
    (folder / "tokenizer_config.json").write_text(json.dumps(listed, indent=2) + "\n")
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


def encoded(tokenizer):
    rows = []
    for text in TEXTS:
        plain = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        full = tokenizer(text)["input_ids"]
        rows.append(dict(text=text, ids=plain["input_ids"], offsets=plain["offset_mapping"], special=full,
                         decoded=tokenizer._tokenizer.decode(full, skip_special_tokens=False),
                         skipped=tokenizer._tokenizer.decode(full, skip_special_tokens=True)))
    cut = {}
    for side in ("left", "right"):
        tokenizer.truncation_side = side
        one = tokenizer(PAIR[1], truncation=True, max_length=8)["input_ids"]
        two = tokenizer(*PAIR, truncation="longest_first", max_length=14, return_token_type_ids=True)
        cut[side] = dict(single=one, pair=two["input_ids"], types=two["token_type_ids"])
    return dict(rows=rows, pair=PAIR, cut=cut)


def rendered(tokenizer, name, template, conversation):
    cases = []
    for prompt in (False, True):
        given = dict(conversation, conversation=conversation["messages"], add_generation_prompt=prompt,
                     chat_template=template)
        del given["messages"]
        case = dict(add_generation_prompt=prompt)
        try:
            case["text"] = tokenizer.apply_chat_template(tokenize=False, **given)
        except Exception as error:
            case["error"] = str(error)
            cases.append(case)
            continue
        case["ids"] = tokenizer.apply_chat_template(tokenize=True, return_dict=True, **given)["input_ids"]
        if "{% generation %}" in template:
            case["mask"] = tokenizer.apply_chat_template(tokenize=True, return_dict=True,
                                                         return_assistant_tokens_mask=True, **given)["assistant_masks"]
        cases.append(case)
    return cases


def main():
    made = {name: fast(name, *build()) for name, build in (("bpe", bpe), ("wordpiece", wordpiece), ("unigram", unigram))}
    write(HERE / "encode.json", {name: encoded(tokenizer) for name, tokenizer in made.items()})
    (HERE / "templates").mkdir(exist_ok=True)
    cases = {}
    for name, template in TEMPLATES.items():
        (HERE / "templates" / f"{name}.jinja").write_text(template)
        text = template.replace("strftime_now('%d %b %Y')", "'26 Jul 2024'")
        cases[name] = {key: rendered(made["bpe"], name, text, conversation)
                       for key, conversation in CONVERSATIONS.items()}
    write(HERE / "chat.json", dict(conversations=CONVERSATIONS, cases=cases))


main()
