#!/usr/bin/env python3
"""Customers recorded several times, with known truth.

Reads real company names (test/data), adds invented phones, e-mails and streets,
and writes the same company again the way different departments write it: other
script or width, a character lost, swapped or misheard, the legal form or the
place left out, fields missing.  Some companies get a sibling: another legal
entity at the same address, which is not a duplicate.

Same seed, same rows.  CSV on standard output; column "cluster_id" is the truth.
"""
import argparse
import csv
import lzma
import os
import random
import sys

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "test", "data")

TRADITIONAL = str.maketrans(
    "东业丝严丰临为丽举义乐书云产亿仓价众优会伟传伦体兴农冈军冲决净凯创刘剂动务劳"
    "华协单卖卢厂厅历压县双发变叶号后员响喷园国图圆圣场坚块处备复头头夹妇娱学宁宝实"
    "审宾对导将尔尘层岛岭峡币带师广庄庆库应开张录彩径总恒悦惠态户扬担拟择护报拥拨"
    "损换据数断无时显晓机权条来杨极构标树样桥检楼横欧气汇汉沟济测浆涂涛润涌渊温湾满"
    "滨灯灵炉点炼热烟爱环现电画畅监盘矿码础确离种积称稳窗竞笔简类粮红纤纪纯纸线组细"
    "织终经结绘给络统绣维综绿缆编网罗联职胜脉药荣莱获营萨蓝装规视计认训议设证评词译"
    "诚询详语请诺课调谊财货贝质购贸资赛赢车轨轮软轻载辆输辽边达迁过运进远连适选邮配"
    "释里针钢铁铜铝银链锋锐锦镇镜长门问间闻阳阴际陆陈险随难项顺须顾预领频题颜风飞饮"
    "馆马驰驶验骏鱼鲁鲜鸟鸿鹏麦黄齐龙",
    "東業絲嚴豐臨為麗舉義樂書雲產億倉價眾優會偉傳倫體興農岡軍衝決淨凱創劉劑動務勞"
    "華協單賣盧廠廳歷壓縣雙發變葉號後員響噴園國圖圓聖場堅塊處備複頭頭夾婦娛學寧寶實"
    "審賓對導將爾塵層島嶺峽幣帶師廣莊慶庫應開張錄彩徑總恆悅惠態戶揚擔擬擇護報擁撥"
    "損換據數斷無時顯曉機權條來楊極構標樹樣橋檢樓橫歐氣匯漢溝濟測漿塗濤潤湧淵溫灣滿"
    "濱燈靈爐點煉熱煙愛環現電畫暢監盤礦碼礎確離種積稱穩窗競筆簡類糧紅纖紀純紙線組細"
    "織終經結繪給絡統繡維綜綠纜編網羅聯職勝脈藥榮萊獲營薩藍裝規視計認訓議設證評詞譯"
    "誠詢詳語請諾課調誼財貨貝質購貿資賽贏車軌輪軟輕載輛輸遼邊達遷過運進遠連適選郵配"
    "釋裡針鋼鐵銅鋁銀鏈鋒銳錦鎮鏡長門問間聞陽陰際陸陳險隨難項順須顧預領頻題顏風飛飲"
    "館馬馳駛驗駿魚魯鮮鳥鴻鵬麥黃齊龍",
)
# Characters that sound alike, as typed from a telephone call.
HOMOPHONES = ["伟玮炜维", "明铭名鸣", "华桦骅", "德得", "新鑫欣信", "盛胜圣", "达大", "诚成城程",
              "丰峰锋风", "宏弘鸿洪", "建健剑", "利丽力立", "金锦津", "源元园原", "兴星", "科柯",
              "通童同", "远苑", "宇羽语", "海亥", "安鞍", "顺舜", "福富付", "泰太", "恒衡横", "祥翔详"]
SOUNDS_LIKE = {c: group for group in HOMOPHONES for c in group}
LEGAL_FORMS = ["股份有限公司", "有限责任公司", "有限公司"]
LATIN_FORMS = {"corporation": ["corp", "Corp."], "incorporated": ["Inc.", "inc"], "limited": ["Ltd", "Ltd."],
               "company": ["Co.", "co"], "inc": ["Incorporated", "inc."], "ltd": ["Limited", "LTD"],
               "llc": ["L.L.C.", "llc"], "gmbh": ["G.m.b.H."], "corp": ["Corporation"], "and": ["&"], "&": ["and"]}
STREETS_CN = ["人民路", "建设路", "解放大道", "中山路", "科技园路", "滨江大道", "工业三路", "文化街"]
STREETS_LATIN = ["Main Street", "Station Road", "Mill Lane", "Harbour Way", "Park Avenue", "Church Road"]


def read(name):
    with lzma.open(os.path.join(DATA, name), "rt", encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


def full_width(text):
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def damage_cn(rng, name, city):
    """One to two of the ways in which one department's spelling differs from another's."""
    for _ in range(rng.choice((1, 1, 1, 2))):
        way = rng.choice(("traditional", "form", "form", "place", "drop", "swap", "homophone", "space", "width"))
        if way == "traditional":
            name = name.translate(TRADITIONAL)
        elif way == "form":
            for form in LEGAL_FORMS:
                if name.endswith(form):
                    name = name[: -len(form)] + rng.choice([f for f in LEGAL_FORMS if f != form] + ["", "(有限公司)"])
                    break
        elif way == "place" and city:
            name = name.replace(city + "市", "", 1).replace(city, "", 1) if city in name else city + name
        elif way == "drop" and len(name) > 6:
            at = rng.randrange(1, len(name) - 1)
            name = name[:at] + name[at + 1:]
        elif way == "swap" and len(name) > 6:
            at = rng.randrange(1, len(name) - 2)
            name = name[:at] + name[at + 1] + name[at] + name[at + 2:]
        elif way == "homophone":
            places = [i for i, c in enumerate(name) if c in SOUNDS_LIKE]
            if places:
                at = rng.choice(places)
                name = name[:at] + rng.choice(SOUNDS_LIKE[name[at]].replace(name[at], "")) + name[at + 1:]
        elif way == "space":
            at = rng.randrange(1, len(name))
            name = name[:at] + " " + name[at:]
        elif way == "width":
            name = full_width(name)
    return name or city


def damage_latin(rng, name, _city):
    for _ in range(rng.choice((1, 1, 2))):
        way = rng.choice(("case", "form", "form", "drop", "swap", "double", "punctuation", "word"))
        words = name.split()
        if way == "case":
            name = rng.choice((name.lower(), name.upper()))
        elif way == "form":
            name = " ".join(rng.choice(LATIN_FORMS.get(w.lower().strip(".,"), [w])) for w in words)
        elif way in ("drop", "swap", "double") and len(name) > 6:
            at = rng.randrange(1, len(name) - 2)
            middle = {"drop": "", "swap": name[at + 1] + name[at], "double": name[at] * 2}[way]
            name = name[:at] + middle + name[at + (2 if way == "swap" else 1):]
        elif way == "punctuation":
            name = name.replace(" ", rng.choice((", ", "-", "  ")), 1)
        elif way == "word" and len(words) > 3:
            del words[rng.randrange(1, len(words))]
            name = " ".join(words)
    return name


def customers(rng, companies, damage, latin):
    for cluster, company in enumerate(companies, 1):
        name, city = company["name"], company["city"]
        if latin:
            phone = "+44 20 7946 %04d" % (cluster % 10000) if cluster % 3 else ""
            street = "%d %s" % (rng.randrange(1, 200), rng.choice(STREETS_LATIN))
            letters = "".join(c for c in name.lower() if c.isascii() and c.isalnum())
        else:
            phone = "1%d%08d" % (rng.choice((38, 39, 50, 59, 86, 88)) * 1, rng.randrange(10**8))
            street = "%s%d号" % (rng.choice(STREETS_CN), rng.randrange(1, 400))
            letters = ""
        email = "info@%s.com" % letters[:20] if letters else "%s%d@qq.com" % (rng.choice("abcdefgh"), rng.randrange(10**8))
        original = {"cluster_id": cluster, "kind": "orig", "name": name, "uscc": company.get("uscc", ""), "phone": phone,
                    "email": email, "street": street, "city": city, "country": "GB" if latin else "CN"}
        yield original
        if rng.random() < 0.22:
            for _ in range(rng.choice((1, 1, 1, 2))):
                copy = dict(original, kind="dup", name=damage(rng, name, city))
                for field, lost in (("uscc", 0.7), ("phone", 0.35), ("email", 0.5), ("street", 0.4), ("city", 0.1)):
                    if rng.random() < lost:
                        copy[field] = ""
                yield copy
        if rng.random() < 0.02:
            kin = "%s Holdings %d" % (name, rng.randrange(2, 9)) if latin else name + rng.choice(("城东", "南山", "第二")) + "分公司"
            yield dict(original, kind="sibling", cluster_id=cluster + 10**6, name=kin, uscc="", email="", phone="")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("set", choices=("cn", "latin"))
    options = parser.parse_args()
    latin = options.set == "latin"
    rng = random.Random("%s %d" % (options.set, options.seed))
    companies = read("companies_latin.csv.xz" if latin else "companies_cn.csv.xz")
    rows = list(customers(rng, companies, damage_latin if latin else damage_cn, latin))
    rng.shuffle(rows)
    fields = ["cluster_id", "kind", "name", "uscc", "phone", "email", "street", "city", "country"]
    writer = csv.DictWriter(sys.stdout, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


if __name__ == "__main__":
    main()
